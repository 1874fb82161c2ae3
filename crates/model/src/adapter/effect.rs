//! What an adapter changes: the contract between the readers here and the runners that apply it.

use rootstock_formats::DType;

use crate::weights::floats;
use crate::{Activation, BlockSite, NormSite, Site};

/// One change an adapter makes to the base. Changes to one site add up: a pair beside a [`MatrixEffect`] adds to the matrix
/// that it puts in place. Under a request's factor f on the adapter, whatever is stored in full is taken as its difference
/// from the base: f times that difference is added, so that 0 is the base and 1 the adapter as trained.
#[derive(Debug)]
pub enum Effect {
    /// `y += scale * (x A^T) B^T`; Hu et al., 2021. With a magnitude: DoRA.
    LowRank(LowRank),
    /// A bias of a linear map.
    Bias(BiasEffect),
    /// Another matrix in place of the base's (`modules_to_save`).
    Matrix(MatrixEffect),
    /// Another normalisation in place of the base's (`modules_to_save`).
    Norm(NormEffect),
    /// A bottleneck after a block; Houlsby et al., 2019, and Pfeiffer et al., 2020.
    Bottleneck(Bottleneck),
}

/// A low-rank pair on one site.
///
/// On [`Site::Embedding`] x is one-hot: the token's column of A, through B, is added to the token's row of the table,
/// before the base's [`embedding_scale`](crate::ArchSpec::embedding_scale), which multiplies both.
#[derive(Debug)]
pub struct LowRank {
    /// The map it changes.
    pub site: Site,
    /// alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub scale: f32,
    /// `[rank, inputs]`
    pub a: AdapterTensor,
    /// `[outputs, rank]`
    pub b: AdapterTensor,
    /// DoRA's magnitude m, `[outputs, 1]`: `y = m / |W + f scale B A| * (W + f scale B A) x`, norms over the inputs of each
    /// output, f the request's factor (peft's `set_scale`); a bias is added afterwards; Liu et al., 2024. Never beside a
    /// [`MatrixEffect`] on the same site.
    pub magnitude: Option<AdapterTensor>,
}

/// A change to the bias of one site.
#[derive(Debug)]
pub struct BiasEffect {
    /// The map it belongs to.
    pub site: Site,
    /// How the values meet the base's bias.
    pub kind: BiasKind,
    /// `[outputs, 1]`
    pub values: AdapterTensor,
}

/// How a bias of an adapter meets the base's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BiasKind {
    /// Stands in its place (peft's `bias`).
    Replaces,
    /// Is added to it, times this scale (peft's `lora_bias`).
    Adds(f32),
}

/// A whole matrix of one site.
#[derive(Debug)]
pub struct MatrixEffect {
    /// The map it replaces; the embedding and the output are separate even where the base ties them.
    pub site: Site,
    /// `[outputs, inputs]`; for the embedding `[vocab_size, hidden_size]`.
    pub values: AdapterTensor,
}

/// A whole normalisation, in the terms of [`Checkpoint::norm`](crate::Checkpoint::norm) (any offset applied).
#[derive(Debug)]
pub struct NormEffect {
    /// The normalisation it replaces.
    pub site: NormSite,
    /// Factors, if stored.
    pub weight: Option<Vec<f32>>,
    /// Bias, if stored.
    pub bias: Option<Vec<f32>>,
}

/// `scale * (up activation(down x + down_bias) + up_bias)`, added to the residual stream after a block has been. Not linear, so
/// that it has a meaning of its own beside no other adapter: it is not part of sums.
#[derive(Debug)]
pub struct Bottleneck {
    /// After which block.
    pub site: BlockSite,
    /// What x is.
    pub input: BottleneckInput,
    /// Between its maps.
    pub activation: Activation,
    /// Factor on what it gives.
    pub scale: f32,
    /// `[width, hidden]`
    pub down: AdapterTensor,
    /// `[width, 1]`
    pub down_bias: AdapterTensor,
    /// `[hidden, width]`
    pub up: AdapterTensor,
    /// `[hidden, 1]`
    pub up_bias: AdapterTensor,
}

/// What a bottleneck sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BottleneckInput {
    /// What the block gives (Houlsby et al., 2019).
    Output,
    /// The residual stream after that has been added to it (Pfeiffer et al., 2020).
    Sum,
}

/// A matrix of an adapter in the element type of its file (F32, F16 or BF16), little endian, row by row.
#[derive(Debug, Clone)]
pub struct AdapterTensor {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows * cols` elements.
    pub bytes: Vec<u8>,
}

impl AdapterTensor {
    /// Every value, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        floats(self.dtype, &self.bytes)
    }
}
