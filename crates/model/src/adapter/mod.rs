//! A PEFT folder, read, checked against a base and turned into effects on its sites.
//! Either every tensor takes effect or the adapter is refused with a stable code.

mod defaults;
mod error;
mod file;
mod folder;
mod names;
mod plan;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;
use std::sync::Arc;

pub use defaults::{AdapterDefaults, SamplingDefaults};
pub use error::{AdapterError, AdapterErrorCode};
use folder::Folder;
use plan::Plan;
use rootstock_formats::DType;

use crate::{ArchSpec, ContentHash, NormSite, Site};

/// A fully validated adapter: what it changes, and the hash that caches are keyed by.
#[derive(Debug)]
pub struct Adapter {
    /// Hash over the configuration fields that change numbers and over every tensor.
    pub hash: ContentHash,
    /// What the adapter records as its base; informative, the same base has many names.
    pub base_model: Option<String>,
    /// Largest rank of any site.
    pub max_rank: usize,
    /// Changes to the base, ordered by site.
    pub effects: Vec<Effect>,
    /// What its requests get where they say nothing; not part of the hash.
    pub defaults: Arc<AdapterDefaults>,
}

/// One change an adapter makes to the base. Under a request's factor f on the adapter, whatever is stored in full is taken
/// as its difference from the base: f times that difference is added, so that 0 is the base and 1 the adapter as trained.
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
}

/// A low-rank pair on one site.
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
    /// output, f the request's factor (peft's `set_scale`); Liu et al., 2024.
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

/// A matrix of an adapter in the element type of its file (F32, F16 or BF16), little endian, row by row.
#[derive(Debug)]
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

/// What an adapter must satisfy beyond fitting the base.
#[derive(Debug, Clone, Copy)]
pub struct AdapterLimits {
    /// Ranks above this are refused.
    pub max_rank: usize,
    /// Weight files larger than this many bytes are refused.
    pub max_bytes: u64,
}

/// What the headers tell about an adapter, before its values are read.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// What the adapter records as its base.
    pub base_model: Option<String>,
    /// Largest rank of any site.
    pub max_rank: usize,
    /// Bytes of the tensors.
    pub tensor_bytes: u64,
    /// What its requests get where they say nothing.
    pub defaults: Arc<AdapterDefaults>,
}

/// The base an adapter is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Shapes and sites.
    pub spec: &'a ArchSpec,
    /// Hash of the base's weights; a different recorded hash refuses the adapter.
    pub hash: ContentHash,
}

/// Checks the configuration and the tensor headers of the folder `dir`; reads no values.
///
/// # Errors
/// Everything that can be told without the values: configuration, names, shapes, ranks, sizes.
pub fn inspect_adapter(dir: &Path, base: Base<'_>, limits: AdapterLimits) -> Result<AdapterSummary, AdapterError> {
    let folder = Folder::open(dir, limits)?;
    let plan = Plan::new(&folder.config, &folder.header, base, limits)?;
    Ok(AdapterSummary {
        max_rank: plan.max_rank(),
        tensor_bytes: plan.tensor_bytes(),
        defaults: Arc::new(AdapterDefaults::read(dir)?),
        base_model: folder.config.base_model,
    })
}

/// Reads and validates the folder `dir` whole, values included.
///
/// # Errors
/// As [`inspect_adapter`], and for values that are not finite or a delta that is zero.
pub fn load_adapter(dir: &Path, base: Base<'_>, limits: AdapterLimits) -> Result<Adapter, AdapterError> {
    let mut folder = Folder::open(dir, limits)?;
    let plan = Plan::new(&folder.config, &folder.header, base, limits)?;
    let defaults = Arc::new(AdapterDefaults::read(dir)?);
    let pairs = values::read_pairs(&mut folder.weights, &plan)?;
    Ok(Adapter {
        hash: values::content_hash(&pairs),
        base_model: folder.config.base_model,
        max_rank: plan.max_rank(),
        effects: pairs.into_iter().map(Effect::LowRank).collect(),
        defaults,
    })
}
