//! What runs in the next step: a plain synchronous struct, sequences in, plan out. No clock, no I/O, no channels.
//!
//! A step first advances every decoding sequence by one row, then fills what remains of the batch, or of the time that
//! the decoding ones can spare, with prefill, tenant by tenant in order of their turn. A sequence is admitted when blocks
//! for all its tokens are free, so prefill never waits for memory half way. A decoding sequence that needs one more block
//! when none is free preempts the one admitted last, which goes back to the head of its tenant's queue and is computed
//! again later, generated tokens kept. The sequence admitted first is never preempted and each fits the pool alone, so
//! some sequence always advances.

mod pace;
mod planning;
mod sequence;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use rootstock_model::text::TokenId;

use crate::kv::BlockPool;
use crate::runner::{AppliedAdapter, BlockId, OutputRows};
use pace::Pace;
use sequence::Sequence;
pub use sequence::{NewSequence, SequenceId};
use tenants::Tenants;

/// Bounds of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulerSettings {
    /// Sequences that run at the same time; never more than `max_batch_rows`, so that each decodes in every step.
    pub max_sequences: usize,
    /// Most rows of one step.
    pub max_batch_rows: usize,
    /// Most rows of one sequence in a step whose every row has logits; bounds the memory for logits.
    pub max_scored_rows: usize,
    /// Reuse blocks of equal content.
    pub prefix_cache: bool,
    /// The KV of generated tokens is not what a prompt of the same tokens gives (see [`crate::runner::Capabilities`]).
    pub prompts_apart: bool,
    /// A step that decodes and prefills takes about this many times as long as without the prefill at most, by what
    /// [`Scheduler::measured`] has told; infinity for no such bound.
    pub decode_slowdown: f64,
}

/// Rows of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The sequence.
    pub id: SequenceId,
    /// Position of the first row.
    pub start: usize,
    /// Consecutive rows, at least one.
    pub rows: usize,
    /// All of them are of the prompt; else none is.
    pub prompt: bool,
    /// Rows whose logits are wanted.
    pub outputs: OutputRows,
    /// The rows reach the sequence's last token: a next one can be chosen.
    pub complete: bool,
}

/// One step. Exactly one of [`Scheduler::succeeded`] and [`Scheduler::failed`] must follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Which rows run, in the order of their logits.
    pub chunks: Vec<Chunk>,
    /// How many of them decode; those come first.
    pub decodes: usize,
}

/// What a chunk reads and writes.
pub struct ChunkView<'a> {
    /// Tokens of the rows.
    pub tokens: &'a [TokenId],
    /// Blocks up to and including those of the rows.
    pub blocks: &'a [BlockId],
    /// Adapters in order.
    pub adapters: &'a [AppliedAdapter],
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounters {
    /// Sequences sent back to the queue.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
}

/// Sequences and the order in which they run.
pub struct Scheduler {
    settings: SchedulerSettings,
    pool: BlockPool,
    sequences: HashMap<SequenceId, Sequence>,
    /// In the order of admission.
    running: Vec<SequenceId>,
    tenants: Tenants,
    pace: Pace,
    counters: SchedulerCounters,
}

impl Scheduler {
    /// A scheduler without sequences over an unused pool.
    pub fn new(settings: SchedulerSettings, pool: BlockPool) -> Self {
        let max_batch_rows = settings.max_batch_rows.max(1);
        let settings = SchedulerSettings {
            max_batch_rows,
            max_sequences: settings.max_sequences.clamp(1, max_batch_rows),
            max_scored_rows: settings.max_scored_rows.max(1),
            ..settings
        };
        Self {
            settings,
            pool,
            sequences: HashMap::new(),
            running: Vec::new(),
            tenants: Tenants::default(),
            pace: Pace::new(settings.decode_slowdown),
            counters: SchedulerCounters::default(),
        }
    }

    /// Queues a sequence. With every token it will ever have it must fit the pool.
    pub fn add(&mut self, new: NewSequence) {
        self.tenants.arrive(&new.tenant, new.id);
        self.sequences.insert(new.id, Sequence::new(new));
    }

    /// Ends a sequence, running or waiting; its blocks are free at once.
    pub fn remove(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else {
            return;
        };
        if !self.tenants.dequeue(&sequence.tenant, id) {
            self.running.retain(|&running| running != id);
        }
        self.tenants.leave(&sequence.tenant);
    }

    /// What a chunk of the current plan reads and writes.
    pub fn view(&self, chunk: &Chunk) -> ChunkView<'_> {
        let sequence = &self.sequences[&chunk.id];
        let end = chunk.start + chunk.rows;
        let blocks = sequence.table.as_ref().map_or(&[][..], |table| table.blocks());
        ChunkView {
            tokens: &sequence.tokens[chunk.start..end],
            blocks: &blocks[..end.div_ceil(self.pool.block_tokens())],
            adapters: &sequence.adapters,
        }
    }

    /// The plan's step has written its KV.
    pub fn succeeded(&mut self, plan: &Plan) {
        for chunk in &plan.chunks {
            let Some(sequence) = self.sequences.get_mut(&chunk.id) else {
                continue;
            };
            sequence.computed = chunk.start + chunk.rows;
            let read = sequence.read_tokens(self.settings.prompts_apart);
            if let Some(table) = sequence.table.as_mut().filter(|_| self.settings.prefix_cache) {
                table.publish(&sequence.tokens[..sequence.computed], read);
            }
        }
    }

    /// The plan's step took this long, whatever its rows were needed for included.
    pub fn measured(&mut self, plan: &Plan, time: Duration) {
        let prefill_rows = plan.chunks[plan.decodes..].iter().map(|chunk| chunk.rows).sum();
        self.pace.measured(plan.decodes, prefill_rows, time);
    }

    /// The plan's step failed: its sequences end, and nothing of theirs is reused.
    pub fn failed(&mut self, plan: &Plan) {
        for chunk in &plan.chunks {
            self.discard(chunk.id);
        }
    }

    /// Ends a sequence whose KV cannot be trusted: its blocks are not reused, those it shares included.
    pub fn discard(&mut self, id: SequenceId) {
        if let Some(table) = self.sequences.get_mut(&id).and_then(|sequence| sequence.table.as_mut()) {
            table.forget();
        }
        self.remove(id);
    }

    /// Appends the token chosen from the logits of a complete chunk.
    pub fn append(&mut self, id: SequenceId, token: TokenId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens.push(token);
        }
    }

    /// The prompt's logits are no longer wanted.
    pub fn prompt_scored(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.first_scored = None;
        }
    }

    /// All tokens of a sequence, prompt first.
    pub fn tokens(&self, id: SequenceId) -> &[TokenId] {
        self.sequences.get(&id).map_or(&[], |sequence| &sequence.tokens)
    }

    /// Prompt tokens that were found in the prefix cache when the sequence was first admitted.
    pub fn cached_tokens(&self, id: SequenceId) -> usize {
        self.sequences
            .get(&id)
            .and_then(|sequence| sequence.cached)
            .unwrap_or(0)
    }

    /// No sequence runs or waits.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequences running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences waiting.
    pub fn waiting(&self) -> usize {
        self.tenants.waiting()
    }

    /// The pool.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Counts since the start.
    pub fn counters(&self) -> SchedulerCounters {
        self.counters
    }
}
