//! What a run warns of while it goes on: numbers that are none, losses that part, tensors that learn nothing.

use std::fmt;

use rootstock_report::quantity::bytes;
use serde::{Deserialize, Serialize};

/// How far above its best the evaluation's loss may be before it counts as risen.
const RISEN: f64 = 1.02;

/// Evaluations in a row that must say so.
const IN_A_ROW: u32 = 2;

/// Something that its user should know before the run ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Warning {
    /// A loss or a norm of gradients that is NaN or infinite. Further steps would train on nothing.
    NotFinite {
        /// Optimizer steps done.
        step: u64,
        /// `loss`, `gradient` or `eval loss`.
        what: String,
    },
    /// The loss on what is trained falls while that on what is held out rises: the run learns its data by heart.
    LossesPart {
        /// Optimizer steps done.
        step: u64,
        /// Step of the best evaluation.
        best_step: u64,
        /// Loss of the best evaluation and of this one.
        eval: [f64; 2],
        /// Mean loss of training before the best evaluation and before this one.
        train: [f64; 2],
    },
    /// Batches are computed in parts, because memory is short.
    BatchHalved {
        /// Optimizer steps done.
        step: u64,
        /// Rows at a time, before and from now on.
        rows: [usize; 2],
        /// Bytes that the batch would take the process to.
        needed: u64,
        /// Bytes that the process may have.
        room: u64,
    },
    /// Batches are computed in parts, because a device had too little memory for one.
    DeviceFull {
        /// Optimizer steps done.
        step: u64,
        /// Rows at a time, before and from now on.
        rows: [usize; 2],
    },
    /// Gradients left the range of float16: the step changed nothing, and losses are scaled by less from now on.
    LossScaleHalved {
        /// Optimizer steps done.
        step: u64,
        /// Factor on losses, before and from now on.
        factors: [f32; 2],
    },
    /// A trainable tensor whose gradient was exactly zero in all steps that were watched.
    NoGradient {
        /// The tensor.
        name: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { step, what } => write!(
                f,
                "step {step}: the {what} is not a finite number; lower the learning rate, or look at the data of this step"
            ),
            Self::LossesPart {
                step,
                best_step,
                eval,
                train,
            } => write!(
                f,
                "step {step}: since step {best_step} the eval loss has risen from {:.4} to {:.4} while the training loss fell from \
                 {:.4} to {:.4}; stop early, or train less or on more data",
                eval[0], eval[1], train[0], train[1]
            ),
            Self::BatchHalved {
                step,
                rows,
                needed,
                room,
            } => write!(
                f,
                "step {step}: {} rows at a time would take about {} of memory, and there is {}: they are computed {} at a time, \
                 more often; the numbers stay the same but for rounding",
                rows[0],
                bytes(*needed),
                bytes(*room),
                rows[1]
            ),
            Self::DeviceFull { step, rows } => write!(
                f,
                "step {step}: the device has too little memory for {} rows at a time: they are computed {} at a time, more often; the \
                 numbers stay the same but for rounding",
                rows[0], rows[1]
            ),
            Self::LossScaleHalved { step, factors } => write!(
                f,
                "step {step}: gradients left the range of float16; the step changes nothing, and losses are scaled by {} in place of \
                 {} from now on",
                factors[1], factors[0]
            ),
            Self::NoGradient { name } => write!(
                f,
                "{name} is trainable, but its gradient is exactly zero: it learns nothing, and its part of the model may be cut off"
            ),
        }
    }
}

/// Looks at losses. It goes into a checkpoint with the rest of the run's state.
///
/// Losses have parted when, in two evaluations in a row, the loss of evaluation is more than 2% above its best while the mean
/// loss of training since the evaluation before is below what it was at the best. It is said once for each best.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LossWatch {
    /// Sum and number of the training losses since the last evaluation.
    sum: f64,
    count: u64,
    best: Option<Evaluation>,
    parted: u32,
    /// Whether it was said of this best.
    said: bool,
    /// Whether the last step's numbers were not finite: a row of bad ones is said once.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Evaluation {
    step: u64,
    loss: f64,
    /// None where no step was trained since the evaluation before.
    train: Option<f64>,
}

impl LossWatch {
    /// Takes the loss and the norm of the gradients of a step.
    pub fn step(&mut self, step: u64, loss: f64, grad_norm: f64) -> Option<Warning> {
        let what = match (loss.is_finite(), grad_norm.is_finite()) {
            (false, _) => "loss",
            (true, false) => "gradient",
            (true, true) => {
                self.sum += loss;
                self.count += 1;
                self.broken = false;
                return None;
            }
        };
        let again = std::mem::replace(&mut self.broken, true);
        (!again).then(|| Warning::NotFinite {
            step,
            what: what.to_owned(),
        })
    }

    /// Takes the loss of an evaluation.
    pub fn evaluation(&mut self, step: u64, loss: f64) -> Option<Warning> {
        let train = (self.count > 0).then(|| self.sum / self.count as f64);
        (self.sum, self.count) = (0.0, 0);
        if !loss.is_finite() {
            let what = "eval loss".to_owned();
            return Some(Warning::NotFinite { step, what });
        }
        let now = Evaluation { step, loss, train };
        let Some(best) = self.best.filter(|best| loss >= best.loss) else {
            self.best = Some(now);
            (self.parted, self.said) = (0, false);
            return None;
        };
        let (Some(before), Some(train)) = (best.train, train) else {
            return None;
        };
        if loss <= best.loss * RISEN || train >= before {
            self.parted = 0;
            return None;
        }
        self.parted += 1;
        let now_said = !self.said && self.parted >= IN_A_ROW;
        self.said |= now_said;
        now_said.then_some(Warning::LossesPart {
            step,
            best_step: best.step,
            eval: [best.loss, loss],
            train: [before, train],
        })
    }
}

/// Looks at the gradients of the first steps of a run.
///
/// Some are zero at first and rightly so: that of LoRA's A, because B is zero. It is not after a step that has moved B. So the
/// verdict comes at the first step after one with a learning rate above zero: the second, or with a warm-up that begins at
/// zero the third.
#[derive(Debug, Clone)]
pub struct GradientWatch {
    /// Whether a gradient was seen, by the tensor's position.
    seen: Vec<bool>,
    moved: bool,
    done: bool,
}

impl GradientWatch {
    /// For so many trainable tensors.
    pub fn new(tensors: usize) -> Self {
        Self {
            seen: vec![false; tensors],
            moved: false,
            done: false,
        }
    }

    /// Whether the verdict is still to come; afterwards there is nothing to look at.
    pub fn watches(&self) -> bool {
        !self.done
    }

    /// Looks at the gradient of the tensor at `index`.
    pub fn gradient(&mut self, index: usize, gradient: &[f32]) {
        if let Some(seen) = self.seen.get_mut(index) {
            *seen = *seen || gradient.iter().any(|&value| value != 0.0);
        }
    }

    /// Ends a step at this learning rate, after all its gradients. When it is the one that decides, the positions of the tensors
    /// that had none.
    pub fn end_step(&mut self, learning_rate: f64) -> Option<Vec<usize>> {
        if self.done {
            return None;
        }
        self.done = self.moved;
        self.moved = self.moved || learning_rate > 0.0;
        let silent = || {
            self.seen
                .iter()
                .enumerate()
                .filter(|(_, seen)| !**seen)
                .map(|(index, _)| index)
        };
        self.done.then(|| silent().collect())
    }
}
