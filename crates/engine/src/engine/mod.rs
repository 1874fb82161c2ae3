//! The engine: a handle that accepts requests, and behind it one thread that plans steps, runs them, samples and
//! reports. That thread is the only owner of the runner and of all scheduling state, so none of it is locked.

mod generation;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use crate::Runner;
use crate::error::SubmitError;
use crate::request::Request;
use generation::Report;
use worker::{Accepted, Worker};

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineSettings {
    /// Sequences that run at the same time; at most `max_batch_rows` of them, so that each advances in every step.
    pub max_sequences: usize,
    /// Requests that may wait: at most this many more than `max_sequences` are accepted and unfinished at any time.
    pub max_waiting: usize,
    /// Most rows of one step; prompts are prefilled in chunks that fit.
    pub max_batch_rows: usize,
    /// Reuse KV blocks of equal content.
    pub prefix_cache: bool,
    /// While prompts are prefilled, a step of the streams that run takes about this many times as long as without at
    /// most; infinity for no such bound.
    pub decode_slowdown: f64,
}

/// Counters and gauges, read at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences running.
    pub running: usize,
    /// Requests waiting, those included that the engine thread has not seen yet.
    pub waiting: usize,
    /// KV blocks held by running sequences.
    pub blocks_used: usize,
    /// KV blocks in the pool.
    pub blocks_total: usize,
    /// Tokens per KV block.
    pub block_tokens: usize,
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

/// Handle to the engine thread; clones share it. When the last is dropped, the thread ends what was accepted and exits.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

struct Handle {
    /// `None` once the engine drains: the thread ends when the sender is gone and the work is done.
    inbox: RwLock<Option<Sender<Accepted>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    gauges: Arc<Gauges>,
    bounds: Bounds,
}

/// What a request is checked against before it is accepted.
#[derive(Clone, Copy)]
struct Bounds {
    /// Most tokens of a sequence, prompt and output.
    tokens: usize,
    vocab_size: usize,
    /// Most requests accepted and unfinished.
    unfinished: usize,
    max_waiting: usize,
}

/// What the thread and the handles both touch.
struct Gauges {
    /// Requests accepted and unfinished: one [`Slot`] each.
    unfinished: AtomicUsize,
    /// As of the last step.
    stats: Mutex<EngineStats>,
    /// The thread is gone, however it ended.
    ended: AtomicBool,
}

/// Says that the thread is gone when it goes, in a panic too.
struct LastWord(Arc<Gauges>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// One request's place among the unfinished ones, given back when dropped, however the request ended.
struct Slot(Arc<Gauges>);

impl Slot {
    fn take(gauges: &Arc<Gauges>, bound: usize) -> Option<Self> {
        let below = |unfinished| (unfinished < bound).then_some(unfinished + 1);
        gauges
            .unfinished
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .ok()?;
        Some(Self(Arc::clone(gauges)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the engine thread on a runner.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    pub fn start(runner: Box<dyn Runner>, settings: EngineSettings) -> Self {
        let capabilities = runner.capabilities();
        let max_sequences = settings.max_sequences.clamp(1, settings.max_batch_rows.max(1));
        let bounds = Bounds {
            tokens: capabilities
                .max_context
                .min(capabilities.blocks * capabilities.block_tokens),
            vocab_size: capabilities.vocab_size,
            unfinished: max_sequences.saturating_add(settings.max_waiting),
            max_waiting: settings.max_waiting,
        };
        let stats = EngineStats {
            blocks_total: capabilities.blocks,
            block_tokens: capabilities.block_tokens,
            ..EngineStats::default()
        };
        let gauges = Arc::new(Gauges {
            unfinished: AtomicUsize::new(0),
            stats: Mutex::new(stats),
            ended: AtomicBool::new(false),
        });
        let (sender, inbox) = crossbeam_channel::unbounded();
        let for_thread = Arc::clone(&gauges);
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let _last_word = LastWord(Arc::clone(&for_thread));
                Worker::new(runner, settings, bounds.tokens, inbox, for_thread).run();
            })
            .unwrap_or_else(|error| panic!("no thread for the engine: {error}"));
        let handle = Handle {
            inbox: RwLock::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            gauges,
            bounds,
        };
        Self {
            handle: Arc::new(handle),
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A full queue, a prompt that cannot fit or be looked up, an engine that drains.
    pub fn submit(&self, request: Request) -> Result<(), SubmitError> {
        let Handle {
            inbox, gauges, bounds, ..
        } = &*self.handle;
        bounds.check(&request)?;
        // Held while sending, so that whatever was accepted is in the channel before a drain closes it.
        let inbox = inbox.read();
        let Some(sender) = inbox.as_ref() else {
            return Err(SubmitError::ShuttingDown);
        };
        let Some(slot) = Slot::take(gauges, bounds.unfinished) else {
            return Err(SubmitError::QueueFull {
                bound: bounds.max_waiting,
            });
        };
        let report = Report::new(request.events.clone());
        sender
            .send(Accepted { request, report, slot })
            .map_err(|_| SubmitError::ShuttingDown)
    }

    /// Requests that may wait, as in [`EngineSettings::max_waiting`].
    pub fn max_waiting(&self) -> usize {
        self.handle.bounds.max_waiting
    }

    /// Whether the engine thread lives. It ends with a drain; without one, a fault of the engine itself has ended it,
    /// and nothing will be served any more.
    pub fn is_alive(&self) -> bool {
        !self.handle.gauges.ended.load(Ordering::Acquire)
    }

    /// Current counters.
    pub fn stats(&self) -> EngineStats {
        let gauges = &self.handle.gauges;
        let stats = *gauges.stats.lock();
        EngineStats {
            waiting: gauges.unfinished.load(Ordering::Relaxed).saturating_sub(stats.running),
            ..stats
        }
    }

    /// Refuses new requests; returns once every accepted one has ended and the thread is gone. Blocks.
    pub fn drain(&self) {
        self.handle.inbox.write().take();
        // A second caller waits here until the first has seen the thread end.
        let mut thread = self.handle.thread.lock();
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine thread ended in a panic");
        }
    }
}

impl Bounds {
    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens + usize::from(request.max_tokens > 0) > self.tokens {
            return Err(SubmitError::PromptTooLong {
                tokens,
                limit: self.tokens,
            });
        }
        match request.prompt.iter().find(|&&token| token as usize >= self.vocab_size) {
            Some(&token) => Err(SubmitError::UnknownToken {
                token,
                vocab_size: self.vocab_size,
            }),
            None => Ok(()),
        }
    }
}
