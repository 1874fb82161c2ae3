//! What a model is, apart from running it: its architecture as data, where a checkpoint keeps its tensors,
//! its weights in the layout of the kernels, its tokenizer and chat template, and adapters checked against it. Runs no model.

pub mod adapter;
mod arch;
pub mod checkpoint;
mod error;
mod files;
mod hash;
pub mod packing;
pub mod text;
mod weights;

pub use arch::{
    Activation, ArchSpec, AttentionSpec, Block, BlockSite, FeedForward, LayerSpec, NormKind, NormSite, NormSpec,
    Position, Projection, ProjectionSet, Site,
};
pub use checkpoint::{
    Additions, Checkpoint, EncodedSource, FileTensor, FloatType, GgufFile, GroupLayout, GroupedFolder, Grouping,
    ModelFolder, SaveSettings, WeightSource,
};
pub use error::ModelError;
pub use hash::ContentHash;
pub use weights::{MatrixView, Norm, RowOrder, append_bytes, append_floats};
