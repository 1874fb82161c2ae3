//! The native runner: the decoder of an [`ArchSpec`] on our own kernels, over weights packed
//! at load. All rows of a step, prefill and decode, of any adapters, go through each product once.

mod adapter;
mod batch;
mod bottleneck;
mod changes;
mod dora;
mod embed;
mod forward;
mod layer;
mod rows;
mod weights;

use std::sync::Arc;

use rootstock_kernels::{BLOCK_TOKENS, Context, Isa, KvCache, KvPrecision, KvShape, Precision, ThreadPool};
use rootstock_model::packing::Packing;
pub use rootstock_model::packing::WeightPrecision;
use rootstock_model::{ArchSpec, Checkpoint};

use self::adapter::NativePreparer;
use self::batch::StepLayout;
use self::forward::Buffers;
use self::weights::{PackedModel, kv_shape};
use crate::runner::{AdapterPreparer, BatchView, Capabilities, Logits, Runner, RunnerError};

/// Precision of the activations that enter a quantized product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationPrecision {
    /// What is fastest on this CPU: [`Self::Int16Prompts`] where it has tile registers, else [`Self::Int8`].
    #[default]
    Auto,
    /// Rounded to int8 per block of 32; keys and values in f16.
    Int8,
    /// As `Int8`, but those of prompts to two int8 each, per group of 256.
    Int16Prompts,
    /// Kept in f32, keys and values too; slow, for checking.
    F32,
}

/// How the native runner is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeSettings {
    /// Worker threads, the caller's included.
    pub threads: usize,
    /// Longest sequence in tokens; at most the architecture's, and what the KV pool holds.
    pub max_context: usize,
    /// Bytes for the KV pool.
    pub kv_bytes: usize,
    /// Precision of the activations.
    pub activations: ActivationPrecision,
    /// Precision of the weights.
    pub weights: WeightPrecision,
    /// The output projection is rounded to 4 bits whatever it is stored in; the embedding, which it may share, is not.
    pub four_bit_output: bool,
}

/// Decoder over packed weights.
pub struct NativeRunner {
    context: Context,
    model: Arc<PackedModel>,
    cache: KvCache,
    buffers: Buffers,
    layout: StepLayout,
    max_context: usize,
    /// Prompts are rounded in coarse groups.
    coarse_prompts: bool,
    preparer: Arc<NativePreparer>,
}

impl NativeRunner {
    /// Packs the weights of a checkpoint.
    ///
    /// # Errors
    /// A KV pool too small for one block per layer, an element type without a packed form, a forced instruction set
    /// that this CPU lacks, or no threads to be had.
    pub fn new(checkpoint: &Checkpoint, settings: NativeSettings) -> Result<Self, RunnerError> {
        let isa = Isa::detect().map_err(|error| RunnerError(error.to_string()))?;
        let pool = ThreadPool::new(settings.threads)
            .map_err(|error| RunnerError(format!("cannot start {} compute threads: {error}", settings.threads)))?;
        let cache = allocate_cache(checkpoint.spec(), settings.kv_bytes, settings.activations)?;
        // A file may promise any length; tables of positions are as long as the memory for keys and values at most.
        let max_context = settings.max_context.min(checkpoint.spec().context_length);
        let max_context = max_context.min(cache.blocks() * BLOCK_TOKENS);
        let packing = Packing {
            precision: settings.weights,
            four_bit_output: settings.four_bit_output,
            threads: settings.threads,
        };
        let model = Arc::new(PackedModel::pack(checkpoint, max_context, packing)?);
        let (precision, coarse_prompts) = match settings.activations {
            ActivationPrecision::Auto => (Precision::Int8, isa.has_tiles()),
            ActivationPrecision::Int8 => (Precision::Int8, false),
            ActivationPrecision::Int16Prompts => (Precision::Int8, true),
            ActivationPrecision::F32 => (Precision::F32, false),
        };
        Ok(Self {
            context: Context { pool, isa },
            preparer: Arc::new(NativePreparer::new(model.clone(), isa)),
            cache,
            buffers: Buffers::new(precision),
            layout: StepLayout::default(),
            max_context,
            coarse_prompts,
            model,
        })
    }

    /// Name of the instruction set that the kernels run on.
    pub fn isa(&self) -> &'static str {
        self.context.isa.name()
    }
}

/// Keys and values are kept as precisely as the activations.
fn allocate_cache(spec: &ArchSpec, kv_bytes: usize, activations: ActivationPrecision) -> Result<KvCache, RunnerError> {
    let precision = match activations {
        ActivationPrecision::F32 => KvPrecision::F32,
        _ => KvPrecision::F16,
    };
    let one_block = kv_shape(spec)?;
    let block_bytes = one_block.block_bytes(precision);
    let blocks = kv_bytes / block_bytes;
    if blocks == 0 {
        return Err(RunnerError(format!(
            "the KV memory of {kv_bytes} bytes does not hold one block of {BLOCK_TOKENS} tokens, which takes {block_bytes} bytes"
        )));
    }
    KvCache::new(KvShape { blocks, ..one_block }, precision).map_err(|error| RunnerError(error.to_string()))
}

impl Runner for NativeRunner {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vocab_size: self.model.vocab_size(),
            max_context: self.max_context,
            block_tokens: BLOCK_TOKENS,
            blocks: self.cache.blocks(),
            prompts_apart: self.coarse_prompts,
        }
    }

    fn preparer(&self) -> Arc<dyn AdapterPreparer> {
        self.preparer.clone()
    }

    fn step(&mut self, batch: &BatchView<'_>, logits: &mut Logits) -> Result<(), RunnerError> {
        self.layout.arrange(batch, &self.capabilities())?;
        let segments = self.layout.segments(batch)?;
        forward::run(
            &mut self.context,
            &self.model,
            &mut self.cache,
            &mut self.buffers,
            forward::Step {
                layout: &self.layout,
                segments: &segments,
            },
            &mut logits.values,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
