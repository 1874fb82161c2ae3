//! The report at the end of a run: one HTML file with inline SVG, which needs nothing beside itself and runs nothing. All text in
//! it that is not ours is escaped.

pub(crate) mod page;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::TrainError;
use crate::files::write_whole;
use crate::records::{Best, Record};

/// What a report says.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Name of the run.
    pub title: String,
    /// Settings by name, in the order they are shown.
    pub settings: Vec<(String, String)>,
    /// What was logged.
    pub records: Vec<Record>,
    /// The best evaluation, where there was any.
    pub best: Option<Best>,
    /// Answers before and after.
    pub samples: Vec<Sample>,
    /// What the run took.
    pub cost: Cost,
    /// What it learned from.
    pub dataset: DatasetFacts,
    /// What was warned of, and whatever else its reader should know.
    pub warnings: Vec<String>,
}

/// A prompt with the answers of the base and of what was trained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// What was asked.
    pub prompt: String,
    /// Answer before training.
    pub base: String,
    /// Answer after it.
    pub adapter: String,
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// From the first step to the last, evaluations included, over all its parts when it was resumed.
    pub time: Duration,
    /// Tokens read, repeated ones each time.
    pub tokens: u64,
    /// The largest resident memory, in bytes.
    pub peak_memory: Option<u64>,
}

/// What a run learned from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DatasetFacts {
    /// Rows to train on.
    pub rows: u64,
    /// Rows held out for evaluation.
    pub held_out: u64,
    /// Tokens of a pass over the rows to train on.
    pub tokens: u64,
    /// Of these, tokens that the loss is taken on.
    pub learned: u64,
    /// Rows that were cut to the longest length.
    pub truncated: u64,
}

impl Report {
    /// Writes it under its name only when it is whole.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        write_whole(path, self.html().as_bytes())
    }
}
