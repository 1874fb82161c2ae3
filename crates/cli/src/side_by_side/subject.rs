//! A model that is measured: its weights packed as they are served, with an adapter on it or none.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use rootstock_engine::Runner;
use rootstock_engine::native::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use rootstock_engine::runner::{
    AppliedAdapter, BatchView, BlockId, InputRow, Logits, OutputRows, RunnerError, SequenceView,
};
use rootstock_model::Checkpoint;
use rootstock_model::adapter::{AdapterError, AdapterLimits, Base, load_adapter};
use rootstock_model::text::{TokenId, Tokenizer};

use crate::settings::kv_bytes;

/// How a model runs.
#[derive(Debug, Clone, Copy)]
pub struct SubjectSettings<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// On it, if any.
    pub adapter: Option<&'a Path>,
    /// Tokens of the longest window.
    pub context: usize,
    /// Worker threads.
    pub threads: usize,
    /// Precision of the activations.
    pub activations: ActivationPrecision,
}

/// Why an adapter is not measured.
pub fn refused(name: &str, adapter: &Path, error: &AdapterError) -> anyhow::Error {
    anyhow!("{name}: {}: {error} ({})", adapter.display(), error.code.as_str())
}

/// Consecutive tokens of the one sequence that a model runs.
pub(super) struct Rows<'a> {
    pub tokens: &'a [TokenId],
    /// Of the first; those before it have run already.
    pub position: usize,
    /// They are of a prompt, and not generated.
    pub prompt: bool,
    pub outputs: OutputRows,
}

/// A model in memory.
pub struct Subject {
    name: String,
    runner: NativeRunner,
    adapters: Vec<AppliedAdapter>,
    tokenizer: Tokenizer,
    threads: usize,
    inputs: Vec<InputRow>,
}

impl Subject {
    /// Packs a model's weights and applies the adapter.
    ///
    /// # Errors
    /// Weights without a packed form, a context longer than the model's, or an adapter that is refused.
    pub fn new(checkpoint: &Checkpoint, settings: SubjectSettings<'_>) -> Result<Self> {
        let most = checkpoint.spec().context_length;
        if settings.context > most {
            let (name, context) = (settings.name, settings.context);
            bail!("{name}: expected windows of {most} tokens at most, its longest sequence, got {context}");
        }
        let runner = NativeRunner::new(
            checkpoint,
            NativeSettings {
                threads: settings.threads,
                max_context: settings.context,
                kv_bytes: kv_bytes(checkpoint.spec(), settings.context),
                activations: settings.activations,
                weights: WeightPrecision::Stored,
                four_bit_output: false,
            },
        )?;
        let mut subject = Self {
            name: settings.name.to_owned(),
            runner,
            adapters: Vec::new(),
            tokenizer: checkpoint.tokenizer()?,
            threads: settings.threads,
            inputs: Vec::new(),
        };
        if let Some(adapter) = settings.adapter {
            subject.apply(adapter, checkpoint)?;
        }
        Ok(subject)
    }

    fn apply(&mut self, adapter: &Path, checkpoint: &Checkpoint) -> Result<()> {
        let base = Base {
            spec: checkpoint.spec(),
            hash: checkpoint.hash(),
        };
        let loaded = load_adapter(adapter, base, AdapterLimits::NONE);
        let prepared = loaded.and_then(|adapter| self.runner.preparer().prepare(&adapter));
        let weights = prepared.map_err(|error| refused(&self.name, adapter, &error))?;
        self.adapters = vec![AppliedAdapter { weights, scale: 1.0 }];
        Ok(())
    }

    /// Logits of consecutive tokens of a window, `[tokens, vocab_size]`; those before `position` have run already.
    ///
    /// # Errors
    /// A step fails.
    pub fn run(&mut self, tokens: &[TokenId], position: usize, logits: &mut Logits) -> Result<(), RunnerError> {
        let rows = Rows {
            tokens,
            position,
            prompt: true,
            outputs: OutputRows::All,
        };
        self.step(rows, logits)
    }

    /// Runs a step of one sequence.
    pub(super) fn step(&mut self, rows: Rows<'_>, logits: &mut Logits) -> Result<(), RunnerError> {
        self.inputs.clear();
        self.inputs.extend(rows.tokens.iter().copied().map(InputRow::Token));
        let end = rows.position + rows.tokens.len();
        let blocks = end.div_ceil(self.runner.capabilities().block_tokens) as u32;
        let blocks: Vec<BlockId> = (0..blocks).map(BlockId).collect();
        let sequence = SequenceView {
            inputs: &self.inputs,
            position: rows.position,
            prompt: rows.prompt,
            blocks: &blocks,
            adapters: &self.adapters,
            outputs: rows.outputs,
        };
        let sequences = &[sequence];
        self.runner.step(&BatchView { sequences }, logits)
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of the model.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Columns of its logits.
    pub fn vocab_size(&self) -> usize {
        self.runner.capabilities().vocab_size
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads
    }
}
