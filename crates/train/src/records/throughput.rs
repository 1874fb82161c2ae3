//! Tokens per second and the time that is left, from the steps so far. There is no clock in here.

use std::time::Duration;

/// Weight of the past in a moving average: half of it is from the last seven steps.
const PAST: f64 = 0.9;

/// Exponentially moving averages of what a step reads and takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Throughput {
    tokens: f64,
    seconds: f64,
    /// Sum of the weights: 1 in the end, less in the first steps.
    weight: f64,
}

impl Throughput {
    /// Takes a step of so many tokens.
    pub fn step(&mut self, tokens: u64, took: Duration) {
        let average = |past: f64, new: f64| PAST * past + (1.0 - PAST) * new;
        self.tokens = average(self.tokens, tokens as f64);
        self.seconds = average(self.seconds, took.as_secs_f64());
        self.weight = average(self.weight, 1.0);
    }

    /// Tokens per second; none before a step that took time.
    pub fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }

    /// How long so many further steps take; none before the first.
    pub fn time_for(&self, steps: u64) -> Option<Duration> {
        let step = (self.weight > 0.0).then(|| self.seconds / self.weight)?;
        Duration::try_from_secs_f64(step * steps as f64).ok()
    }
}
