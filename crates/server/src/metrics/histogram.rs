//! A histogram of durations over fixed buckets, written without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds: from a decode step on a fast machine to a long generation on a slow one.
pub(super) const BOUNDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Counts per bucket, not cumulative; the last is for what is above all bounds.
#[derive(Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// What a histogram held when it was read.
pub(super) struct Reading {
    /// Observations up to each bound, then all.
    pub(super) cumulative: [u64; BOUNDS.len() + 1],
    /// Sum of the observations in seconds.
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds
            .fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let mut total = 0;
        let cumulative = std::array::from_fn(|bucket| {
            total += self.buckets[bucket].load(Ordering::Relaxed);
            total
        });
        Reading {
            cumulative,
            sum: self.microseconds.load(Ordering::Relaxed) as f64 * 1e-6,
        }
    }
}
