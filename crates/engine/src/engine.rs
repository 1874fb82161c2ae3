//! The engine thread: takes requests, plans steps, runs them, samples and reports. The only owner of the runner.

use crate::Runner;
use crate::error::SubmitError;
use crate::request::Request;

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Sequences that run at the same time.
    pub max_sequences: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Most rows of one step; prompts are prefilled in chunks that fit.
    pub max_batch_rows: usize,
    /// Reuse KV blocks of equal content.
    pub prefix_cache: bool,
}

/// Counters and gauges, read at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences running.
    pub running: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// KV blocks held by running sequences.
    pub blocks_used: usize,
    /// KV blocks in the pool.
    pub blocks_total: usize,
    /// Blocks that hold a reusable prefix and no running sequence.
    pub blocks_cached: usize,
    /// Sequences sent back to the queue because blocks ran out.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Steps run.
    pub steps: u64,
}

/// Handle to the engine thread; clones share it.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the engine thread on a runner.
    pub fn start(_runner: Box<dyn Runner>, _settings: EngineSettings) -> Self {
        todo!()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A full queue, a prompt that cannot fit, an engine that drains.
    pub fn submit(&self, _request: Request) -> Result<(), SubmitError> {
        todo!()
    }

    /// Current counters.
    pub fn stats(&self) -> EngineStats {
        todo!()
    }

    /// Refuses new requests; returns once every accepted one has ended and the thread is gone. Blocks.
    pub fn drain(&self) {
        todo!()
    }
}
