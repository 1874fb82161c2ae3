//! Median pruning (Golovin et al. 2017, "Google Vizier"): a trial that is worse on its way than half of the others were at the same
//! step ends there.

use serde::{Deserialize, Serialize};

use super::trial::{State, Trial};

/// Which results are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Low ones, as of a loss.
    #[default]
    Minimize,
    /// High ones, as of an accuracy.
    Maximize,
}

impl Direction {
    /// Whether a value is better than another. NaN is worse than any.
    pub fn is_better(self, value: f64, other: f64) -> bool {
        match self {
            _ if value.is_nan() || other.is_nan() => !value.is_nan(),
            Self::Minimize => value < other,
            Self::Maximize => value > other,
        }
    }
}

/// When trials end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MedianPruning {
    /// Finished trials that must have a value at the step before any is judged by them; at least 1.
    pub warmup_trials: usize,
    /// Steps at the beginning of each trial at which it is not judged.
    pub warmup_steps: u64,
}

impl Default for MedianPruning {
    fn default() -> Self {
        Self {
            warmup_trials: 4,
            warmup_steps: 0,
        }
    }
}

impl MedianPruning {
    /// Whether a trial with this value at this step ends. Only trials that were finished are compared with: those that were pruned
    /// would make the median worse at late steps than it is.
    pub(super) fn prunes(&self, trials: &[Trial], direction: Direction, step: u64, value: f64) -> bool {
        let finished = trials.iter().filter(|trial| trial.state == State::Finished);
        let mut others: Vec<f64> = finished.filter_map(|trial| trial.value_at(step)).collect();
        if step <= self.warmup_steps || others.len() < self.warmup_trials.max(1) {
            return false;
        }
        others.sort_by(f64::total_cmp);
        let middle = others.len() / 2;
        let median = match others.len().is_multiple_of(2) {
            true => (others[middle - 1] + others[middle]) / 2.0,
            false => others[middle],
        };
        direction.is_better(median, value)
    }
}
