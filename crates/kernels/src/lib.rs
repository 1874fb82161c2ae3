//! SIMD on quantized blocks: matrix products, batched low-rank deltas, attention over paged KV, and the thread pool
//! they share. No files, no model: shapes in, numbers out. The only crate with unsafe code.
//!
//! Every operation is one parallel region of [`ThreadPool`], and gives the same bits for any number of threads and for
//! any rows beside a row: each output has one accumulation order, independent chains run across outputs.

mod activations;
mod attention;
mod components;
mod disjoint;
mod divergence;
mod element;
mod encode;
mod gemm;
mod isa;
mod kv;
mod linear;
mod lora;
mod matrix;
mod norm;
mod pool;
mod prepare;
pub mod probe;
mod rotary;
mod simd;
pub mod training;

pub use activations::{Activations, Precision};
pub use attention::{AttentionHeads, attend};
pub use components::{Components, components};
pub use divergence::{LogitPairs, RowDivergence, divergence};
pub use element::ElementType;
pub use encode::nf4::{Nf4Weights, encode_nf4};
pub use encode::{Grid, GroupFormat, ZeroPoint, dynamic_map, encode_groups, encode_row};
pub use gemm::{Arithmetic, Gemm, Right, View, gemm};
pub use isa::{ISA_VARIABLE, Isa, UnknownIsa};
pub use kv::{BLOCK_TOKENS, KvCache, KvPrecision, KvShape, Place, Places};
pub use linear::{Activation, Part, Then, linear};
pub use lora::{BiasTerm, ColumnFactors, DenseTerm, LowRankBatch, LowRankPair, LowRankTerm};
pub use matrix::{BLOCK, BlockFormat, PackedMatrix, ShapeError};
pub use norm::{NormFormula, NormWeights, RowNorms, add_normed};
pub use pool::{ThreadPool, share};
pub use prepare::{Source, prepare};
pub use rotary::{HeadTransform, RotaryTable, rotate_and_store};

/// What every operation runs on.
pub struct Context {
    /// The threads.
    pub pool: ThreadPool,
    /// The instruction set.
    pub isa: Isa,
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
