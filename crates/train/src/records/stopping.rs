//! Early stopping: when evaluations no longer improve, and which step was the best.

use serde::{Deserialize, Serialize};

/// Watches the loss of evaluations. It goes into a checkpoint with the rest of the run's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    patience: Option<u32>,
    min_delta: f64,
    best: Option<Best>,
    /// What an evaluation has to fall below by `min_delta` to count. It moves only then: many gains that are each too small
    /// count once they are enough together.
    reference: Option<f64>,
    waited: u32,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps done.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
}

/// What an evaluation means for the run. Both may be: a gain that is too small to go on for is still a gain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It is the best so far: its weights are to be kept.
    pub best: bool,
    /// Patience is used up: the run ends, and the best weights are put back.
    pub stop: bool,
}

impl EarlyStopping {
    /// Stops after `patience` evaluations in a row that are not better by more than `min_delta`; never without patience, and then
    /// only knows the best.
    pub fn new(patience: Option<u32>, min_delta: f64) -> Self {
        Self {
            patience,
            min_delta,
            best: None,
            reference: None,
            waited: 0,
        }
    }

    /// Takes the loss of an evaluation. NaN is worse than any number.
    pub fn observe(&mut self, step: u64, loss: f64) -> Verdict {
        let better_than =
            |other: Option<f64>, delta: f64| !loss.is_nan() && other.is_none_or(|other| loss < other - delta);
        if better_than(self.reference, self.min_delta) {
            self.reference = Some(loss);
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        let best = better_than(self.best.map(|best| best.loss), 0.0);
        if best {
            self.best = Some(Best { step, loss });
        }
        Verdict {
            best,
            stop: self.patience.is_some_and(|patience| self.waited >= patience.max(1)),
        }
    }

    /// The best evaluation, if there was one.
    pub fn best(&self) -> Option<Best> {
        self.best
    }
}
