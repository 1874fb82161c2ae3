//! An adapter (a PEFT or AdapterHub folder or a GGUF file), read, checked against a base and turned into effects on its sites.
//! Either every tensor takes effect or the adapter is refused with a stable code.

mod bottleneck;
mod container;
mod defaults;
mod description;
mod effect;
mod error;
mod file;
mod hash;
mod modules;
mod names;
mod plan;
pub mod save;
mod slot;
mod support;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;
use std::sync::Arc;

pub use bottleneck::{BottleneckNames, bottleneck_activation};
use container::Files;
pub use container::{BOTTLENECK_HEAD, BOTTLENECK_WEIGHTS, CONFIG, WEIGHTS, is_gguf};
pub use defaults::{AdapterDefaults, SamplingDefaults};
pub use description::{AdapterDescription, AdapterKind, describe_adapter};
pub use effect::{
    AdapterTensor, BiasEffect, BiasKind, Bottleneck, BottleneckInput, Effect, LowRank, MatrixEffect, NormEffect,
};
pub use error::{AdapterError, AdapterErrorCode};
pub use modules::{Map as ModuleMap, Module, ModuleRole, Modules, Part as ModulePart};
use plan::Plan;
pub use slot::Slot;
pub use support::{SupportRow, Verdict, support};

use crate::{ArchSpec, ContentHash};

/// A fully validated adapter: what it changes, and the hash that caches are keyed by.
#[derive(Debug)]
pub struct Adapter {
    /// Hash over everything that changes numbers: scales and every tensor.
    pub hash: ContentHash,
    /// What the adapter records as its base; informative, the same base has many names.
    pub base_model: Option<String>,
    /// Largest rank of any pair or width of any bottleneck; 0 without any.
    pub max_rank: usize,
    /// Changes to the base: pairs, biases, matrices, normalisations, bottlenecks, each ordered by site.
    pub effects: Vec<Effect>,
    /// What its requests get where they say nothing; not part of the hash.
    pub defaults: Arc<AdapterDefaults>,
}

/// What an adapter must satisfy beyond fitting the base.
#[derive(Debug, Clone, Copy)]
pub struct AdapterLimits {
    /// Ranks and widths of bottlenecks above this are refused.
    pub max_rank: usize,
    /// Weight files larger than this many bytes are refused.
    pub max_bytes: u64,
}

impl AdapterLimits {
    /// For those who look at an adapter and serve nobody meanwhile.
    pub const NONE: Self = Self {
        max_rank: usize::MAX,
        max_bytes: u64::MAX,
    };
}

/// What the headers tell about an adapter, before its values are read.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// What the adapter records as its base.
    pub base_model: Option<String>,
    /// Largest rank of any pair or width of any bottleneck.
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

/// Checks the configuration and the tensor headers of the adapter at `path`; reads no values. The adapter is a PEFT folder,
/// one of AdapterHub with bottlenecks, a `.gguf` file, or a folder with one of these and no `adapter_config.json`.
///
/// # Errors
/// Everything that can be told without the values: configuration, names, shapes, ranks, sizes.
pub fn inspect_adapter(path: &Path, base: Base<'_>, limits: AdapterLimits) -> Result<AdapterSummary, AdapterError> {
    let files = Files::open(path, limits)?;
    let plan = Plan::new(&files, base, limits)?;
    Ok(AdapterSummary {
        max_rank: plan.max_rank(),
        tensor_bytes: plan.tensor_bytes(),
        defaults: defaults(&files)?,
        base_model: files.base_model(),
    })
}

/// Reads and validates the adapter at `path` whole, values included; `path` as for [`inspect_adapter`].
///
/// # Errors
/// As [`inspect_adapter`], and for values that are not finite or a delta that is zero.
pub fn load_adapter(path: &Path, base: Base<'_>, limits: AdapterLimits) -> Result<Adapter, AdapterError> {
    let files = Files::open(path, limits)?;
    let plan = Plan::new(&files, base, limits)?;
    let defaults = defaults(&files)?;
    let effects = values::read_effects(&files, &plan)?;
    Ok(Adapter {
        hash: hash::content_hash(&effects),
        base_model: files.base_model(),
        max_rank: plan.max_rank(),
        effects,
        defaults,
    })
}

fn defaults(files: &Files) -> Result<Arc<AdapterDefaults>, AdapterError> {
    let read = files.dir.as_deref().map(AdapterDefaults::read);
    Ok(Arc::new(read.transpose()?.unwrap_or_default()))
}
