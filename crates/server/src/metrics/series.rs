//! Counters of one adapter (or of the base), and the meter that each choice moves them with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::histogram::Histogram;

/// Ways a choice ends, as the `finish_reason` label spells them; the last is for clients that left.
pub(super) const FINISH_REASONS: [&str; 4] = ["stop", "length", "error", "cancelled"];

/// Everything counted per adapter.
#[derive(Default)]
pub(super) struct Series {
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    /// By [`FINISH_REASONS`].
    pub(super) finished: [AtomicU64; FINISH_REASONS.len()],
    pub(super) first_token: Histogram,
    pub(super) between_tokens: Histogram,
    pub(super) end_to_end: Histogram,
}

/// Choices of one adapter that wait in the engine's queue, and choices that run.
#[derive(Default)]
pub(super) struct Activity {
    pub(super) waiting: AtomicUsize,
    pub(super) running: AtomicUsize,
}

impl Activity {
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Follows one choice. Dropped before its end, it counts as cancelled.
pub(crate) struct Meter {
    pub(super) series: Arc<Series>,
    /// Of every adapter the choice runs on.
    pub(super) activities: Vec<Arc<Activity>>,
    pub(super) arrived: Instant,
    pub(super) last_token: Option<Instant>,
    pub(super) started: bool,
    pub(super) ended: bool,
}

impl Meter {
    /// The choice runs; so many tokens of its prompt were found in the prefix cache.
    pub(crate) fn start(&mut self, cached_tokens: usize) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.series
            .cached_tokens
            .fetch_add(cached_tokens as u64, Ordering::Relaxed);
        for activity in &self.activities {
            activity.waiting.fetch_sub(1, Ordering::Relaxed);
            activity.running.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A token was generated.
    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => self.series.first_token.observe(now - self.arrived),
            Some(last) => self.series.between_tokens.observe(now - last),
        }
        self.series.generated_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// The choice ended for one of [`FINISH_REASONS`].
    pub(crate) fn end(&mut self, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(index) = FINISH_REASONS.iter().position(|known| *known == reason) {
            self.series.finished[index].fetch_add(1, Ordering::Relaxed);
        }
        self.series.end_to_end.observe(self.arrived.elapsed());
        for activity in &self.activities {
            let counter = match self.started {
                true => &activity.running,
                false => &activity.waiting,
            };
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end("cancelled");
    }
}
