//! The boundary to whatever computes logits. The engine owns the order of things, the runner owns tensors and KV storage.

use std::any::Any;
use std::sync::Arc;

use rootstock_model::ContentHash;
use rootstock_model::adapter::{Adapter, AdapterError};
use rootstock_model::text::TokenId;

/// Handle of a KV block inside the runner's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// What a runner offers; fixed for its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Columns of the logits.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_context: usize,
    /// Tokens per KV block.
    pub block_tokens: usize,
    /// KV blocks in the pool.
    pub blocks: usize,
    /// Rows of prompts are computed in another way than those of generated tokens, so that the KV of the one is not that of the
    /// other.
    pub prompts_apart: bool,
}

/// Input of one row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputRow {
    /// A token to be looked up in the embedding.
    Token(TokenId),
}

/// Rows of a sequence for which logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRows {
    /// More of the prompt follows: none.
    None,
    /// The last row, to sample from.
    Last,
    /// Every row, for the log-probabilities of a prompt.
    All,
}

/// An adapter as prepared by a runner, applied at a scale on top of the adapter's own.
#[derive(Clone)]
pub struct AppliedAdapter {
    /// The packed weights.
    pub weights: Arc<dyn PreparedAdapter>,
    /// Factor on the adapter's delta.
    pub scale: f32,
}

/// The part of one sequence that runs in this step.
#[derive(Clone, Copy)]
pub struct SequenceView<'a> {
    /// Consecutive rows.
    pub inputs: &'a [InputRow],
    /// Position of the first row; rows at smaller positions are in the blocks already.
    pub position: usize,
    /// The rows are of the prompt, which a runner may compute in another way than generated tokens, as long as a row's bits
    /// depend on nothing else.
    pub prompt: bool,
    /// Blocks of the whole sequence so far, this step's rows included.
    pub blocks: &'a [BlockId],
    /// Adapters, in the order their deltas are added; empty for the base.
    pub adapters: &'a [AppliedAdapter],
    /// Which rows need logits.
    pub outputs: OutputRows,
}

/// One step: all rows of all sequences that run in it, prefill and decode alike.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    /// Sequences in the order of their logits.
    pub sequences: &'a [SequenceView<'a>],
}

/// Logits of a step, `[rows, vocab_size]`, rows in the order of the batch's requested outputs. Reused between steps.
#[derive(Debug, Default)]
pub struct Logits {
    /// Row after row.
    pub values: Vec<f32>,
}

/// Why a step failed. The sequences in its batch fail; the engine lives on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the model runner failed: {0}")]
pub struct RunnerError(pub String);

impl From<rootstock_model::packing::PackError> for RunnerError {
    fn from(error: rootstock_model::packing::PackError) -> Self {
        Self(error.to_string())
    }
}

/// An adapter in a runner's own layout.
pub trait PreparedAdapter: Any + Send + Sync {
    /// Bytes it holds resident.
    fn bytes(&self) -> usize;
    /// Hash of the adapter it was made from.
    fn content_hash(&self) -> ContentHash;
    /// Whether a request may apply it together with others. What is not linear in its input has no sum with them.
    fn adds_up(&self) -> bool {
        true
    }
}

/// Makes [`PreparedAdapter`]s; shared with the threads that load adapters, so that loading never waits for a step.
pub trait AdapterPreparer: Send + Sync {
    /// Packs a validated adapter.
    ///
    /// # Errors
    /// An effect that this runner cannot apply.
    fn prepare(&self, adapter: &Adapter) -> Result<Arc<dyn PreparedAdapter>, AdapterError>;
}

/// Computes logits and keeps KV.
pub trait Runner: Send {
    /// What this runner offers.
    fn capabilities(&self) -> Capabilities;
    /// The packer for this runner's adapters.
    fn preparer(&self) -> Arc<dyn AdapterPreparer>;
    /// Runs one step, writes the KV of every row and the requested logits.
    ///
    /// # Errors
    /// The step as a whole failed; KV of the batch's sequences is undefined afterwards.
    fn step(&mut self, batch: &BatchView<'_>, logits: &mut Logits) -> Result<(), RunnerError>;
}
