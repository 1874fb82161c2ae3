//! What AdapterHub's library calls the tensors and functions of bottlenecks, and which blocks of a base have one.

use rootstock_formats::adapterhub::BottleneckConfig;

use super::container::CONFIG;
use super::error::clipped;
use super::names::ModuleNames;
use super::{AdapterError, AdapterErrorCode as Code, BottleneckInput};
use crate::{Activation, ArchSpec, Block, BlockSite};

/// Families whose blocks the library gives bottlenecks as they are computed here. It knows none of the others, or puts theirs
/// before a normalisation that follows the block.
pub(super) const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gpt2"];

/// The functions between the maps that have a kernel, as transformers names them.
pub(super) const NON_LINEARITIES: [(&str, Activation); 7] = [
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
];

/// The function between a bottleneck's maps by its name in a configuration.
///
/// # Errors
/// A function without a kernel.
pub fn bottleneck_activation(name: &str) -> Result<Activation, AdapterError> {
    let known = NON_LINEARITIES.iter().find(|(known, _)| *known == name);
    known.map(|(_, activation)| *activation).ok_or_else(|| {
        let supported = NON_LINEARITIES.map(|(name, _)| name).join(", ");
        let shown = clipped(name);
        let message = format!("{CONFIG}: non_linearity: {shown:?} is not supported (supported: {supported})");
        AdapterError::new(Code::UnsupportedField, message)
    })
}

/// Names of the tensors of one adapter.
#[derive(Debug)]
pub struct BottleneckNames {
    stack: String,
    adapter: String,
}

impl BottleneckNames {
    /// Of the adapter `adapter` on a base. Where `is_used` says that the file names its layers so, they are those of the
    /// model without its head, which the library saves without the first part of their path.
    ///
    /// # Errors
    /// The base is of a family that has no bottlenecks.
    pub fn of(spec: &ArchSpec, adapter: &str, is_used: impl Fn(&str) -> bool) -> Result<Self, AdapterError> {
        let family = spec.family.as_str();
        let known = ModuleNames::of_family(family, |_| false).filter(|_| FAMILIES.contains(&family));
        let Some(names) = known else {
            let supported = FAMILIES.join(", ");
            let message = format!(
                "bottleneck adapters are not supported on a base of the family {family} (supported: {supported})"
            );
            return Err(AdapterError::new(Code::UnsupportedType, message));
        };
        let bare = names.stack.split_once('.').map_or(names.stack, |(_, rest)| rest);
        let stack = if is_used(bare) { bare } else { names.stack };
        Ok(Self {
            stack: stack.to_owned(),
            adapter: adapter.to_owned(),
        })
    }

    /// Down, its bias, up, its bias.
    pub fn tensors(&self, site: BlockSite) -> [String; 4] {
        let Self { stack, adapter } = self;
        let block = match site.block {
            Block::Attention => "attention_adapters",
            Block::FeedForward => "output_adapters",
        };
        ["down.0.weight", "down.0.bias", "up.weight", "up.bias"]
            .map(|part| format!("{stack}.{}.{block}.adapters.{adapter}.adapter_{part}", site.layer))
    }

    /// The blocks that a configuration names, in the order of a forward pass; layers that it leaves out among them.
    pub fn sites<'a>(
        &self,
        config: &'a BottleneckConfig,
        spec: &ArchSpec,
    ) -> impl Iterator<Item = BlockSite> + use<'a> {
        let all = (0..spec.layers.len()).flat_map(|layer| Block::ALL.map(|block| BlockSite { layer, block }));
        all.filter(|site| match site.block {
            Block::Attention => config.after_attention,
            Block::FeedForward => config.after_feed_forward,
        })
    }
}

impl BottleneckInput {
    /// What a configuration has its bottlenecks see.
    pub fn of(config: &BottleneckConfig) -> Self {
        match config.sees_sum {
            true => Self::Sum,
            false => Self::Output,
        }
    }
}
