//! Steps of the native runner, measured: rows of several sequences in one batch, without server or scheduler.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rootstock_engine::native::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use rootstock_engine::runner::{
    AppliedAdapter, BatchView, BlockId, InputRow, Logits, OutputRows, PreparedAdapter, Runner, SequenceView,
};
use rootstock_formats::DType;
use rootstock_model::adapter::{Adapter, AdapterTensor, Effect, LowRank};
use rootstock_model::{ArchSpec, Checkpoint, ContentHash, Site};

/// Rows that run together in one step, each sequence at the same position.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub sequences: usize,
    /// Of each sequence.
    pub rows: usize,
    pub position: usize,
    /// Each sequence on an adapter of its own.
    pub adapters: bool,
}

impl Case {
    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.sequences * self.rows
    }
}

/// A model on a runner, with adapters to apply.
pub struct Steps {
    runner: NativeRunner,
    adapters: Vec<Arc<dyn PreparedAdapter>>,
}

impl Steps {
    /// Opens a model with room for `context` tokens a sequence and a pool of `kv_tokens`, and makes `adapters` random adapters.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn open(
        model: &Path,
        threads: usize,
        (context, kv_tokens): (usize, usize),
        adapters: u8,
        four_bit_output: bool,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(model).with_context(|| format!("{} (see `make model`)", model.display()))?;
        let settings = NativeSettings {
            threads,
            max_context: context,
            kv_bytes: kv_tokens * kv_bytes_per_token(checkpoint.spec()),
            activations: ActivationPrecision::Auto,
            weights: WeightPrecision::Stored,
            four_bit_output,
        };
        let runner = NativeRunner::new(&checkpoint, settings)?;
        let adapters = (0..adapters)
            .map(|index| adapter(checkpoint.spec(), &runner, index))
            .collect::<Result<_>>()?;
        Ok(Self { runner, adapters })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> &'static str {
        self.runner.isa()
    }

    /// Median time of a step.
    ///
    /// # Errors
    /// A step fails.
    pub fn measure(&mut self, case: &Case, seconds: f64) -> Result<Duration> {
        let block_tokens = self.runner.capabilities().block_tokens;
        let each = (case.position + case.rows).div_ceil(block_tokens);
        // Blocks of the sequences alternate, as they do after a while of serving.
        let block = |sequence: usize, index: usize| BlockId((index * case.sequences + sequence) as u32);
        let blocks: Vec<Vec<BlockId>> = (0..case.sequences)
            .map(|sequence| (0..each).map(|index| block(sequence, index)).collect())
            .collect();
        let vocabulary = self.runner.capabilities().vocab_size as u32;
        let inputs: Vec<InputRow> = (0..case.rows)
            .map(|row| InputRow::Token((row as u32 * 7919 + 17) % vocabulary))
            .collect();
        let applied: Vec<Vec<AppliedAdapter>> = (0..case.sequences)
            .map(|sequence| self.applied(case, sequence))
            .collect();
        let views: Vec<SequenceView<'_>> = (0..case.sequences)
            .map(|sequence| SequenceView {
                inputs: &inputs,
                position: case.position,
                prompt: case.rows > 1,
                blocks: &blocks[sequence],
                adapters: &applied[sequence],
                outputs: OutputRows::Last,
            })
            .collect();
        median_step(&mut self.runner, &BatchView { sequences: &views }, seconds)
    }

    fn applied(&self, case: &Case, sequence: usize) -> Vec<AppliedAdapter> {
        if !case.adapters {
            return Vec::new();
        }
        vec![AppliedAdapter {
            weights: self.adapters[sequence].clone(),
            scale: 1.0,
        }]
    }
}

fn median_step(runner: &mut NativeRunner, batch: &BatchView<'_>, seconds: f64) -> Result<Duration> {
    let mut logits = Logits::default();
    // The first step finds its memory.
    runner.step(batch, &mut logits)?;
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < 5 || started.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        runner.step(batch, &mut logits)?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Bytes of keys and values of one token in f16.
pub fn kv_bytes_per_token(spec: &ArchSpec) -> usize {
    let widths = spec
        .layers
        .iter()
        .map(|layer| layer.attention.kv_heads * layer.attention.head_dim);
    widths.sum::<usize>() * 2 * 2
}

/// A random adapter on all linear maps: rank 8 and 16 in turn, bf16.
fn adapter(spec: &ArchSpec, runner: &NativeRunner, index: u8) -> Result<Arc<dyn PreparedAdapter>> {
    let rank = if index.is_multiple_of(2) { 8 } else { 16 };
    let mut random = fastrand::Rng::with_seed(u64::from(index));
    let mut tensor = |rows: usize, cols: usize| {
        let value = |_| half::bf16::from_f32(random.f32() * 0.02 - 0.01).to_le_bytes();
        AdapterTensor {
            dtype: DType::BF16,
            rows,
            cols,
            bytes: (0..rows * cols).flat_map(value).collect(),
        }
    };
    let mut effects = Vec::new();
    for site in spec.sites().filter(|site| matches!(site, Site::Layer { .. })) {
        let (inputs, outputs) = spec.shape(site).context("a site of the spec")?;
        effects.push(Effect::LowRank(LowRank {
            site,
            scale: 2.0,
            a: tensor(rank, inputs),
            b: tensor(outputs, rank),
            magnitude: None,
        }));
    }
    let adapter = Adapter {
        hash: ContentHash([index; 32]),
        base_model: None,
        max_rank: rank,
        effects,
        defaults: Arc::default(),
    };
    Ok(runner.preparer().prepare(&adapter)?)
}
