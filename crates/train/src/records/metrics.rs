//! `metrics.jsonl`: a JSON object per logged step. A run that resumes keeps what lies up to its step and writes the rest again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::lines::Lines;

/// What is known after a step. What was not measured at it is left out of the file; so are numbers that are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Optimizer steps done.
    pub step: u64,
    /// Passes over the data done, with a fraction.
    pub epoch: f64,
    /// Mean loss per token that is learned, since the record before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Rate of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Norm of the last step's gradients before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens read so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens read per second, lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Resident memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Mean loss per learned token of what is held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// What else was measured, by name; names of evaluations begin with `eval_`.
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

impl Record {
    /// The numbers by TensorBoard's names, which are those of Hugging Face's callback: `eval/loss` for `eval_loss`, and
    /// `train/loss` for `loss`.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let named = [
            ("epoch", Some(self.epoch)),
            ("loss", self.loss),
            ("learning_rate", self.learning_rate),
            ("grad_norm", self.grad_norm),
            ("tokens", self.tokens.map(|tokens| tokens as f64)),
            ("tokens_per_second", self.tokens_per_second),
            ("memory", self.memory.map(|bytes| bytes as f64)),
            ("eval_loss", self.eval_loss),
        ];
        let more = self.more.iter().map(|(name, value)| (name.as_str(), Some(*value)));
        let tag = |name: &str| match name.strip_prefix("eval_") {
            Some(name) => format!("eval/{name}"),
            None => format!("train/{name}"),
        };
        let known = named.into_iter().chain(more);
        known.filter_map(|(name, value)| Some((tag(name), value?))).collect()
    }
}

/// The open file.
#[derive(Debug)]
pub struct MetricsLog(Lines);

impl MetricsLog {
    /// An empty log, in place of whatever was there.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        Lines::create(path).map(Self)
    }

    /// The log as it was after `step`, and its records. A file that is not there is an empty log.
    ///
    /// # Errors
    /// A file that cannot be read or written, or with a line that is no record. The last line may be torn: the run may have
    /// been killed while it was written.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, Vec<Record>), TrainError> {
        let (lines, records) = Lines::open(path, |record: &Record| record.step <= step)?;
        Ok((Self(lines), records))
    }

    /// Writes a line, in one piece.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        self.0.append(record)
    }
}
