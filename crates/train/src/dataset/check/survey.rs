//! Rows of both sides of a split with what they are in tokens; those that cannot be used are kept as findings.

use std::sync::Arc;

use super::super::{Encoded, Encoder, Example, Place, Row, Shape, Split, hold_out, prefetch};
use super::{Fault, Finding};
use crate::TrainError;

/// A row that can be used.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Where it stands.
    pub place: Place,
    /// What it teaches.
    pub example: Example,
    /// The same in tokens.
    pub encoded: Encoded,
}

/// The rows of a data set.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// To train on.
    pub train: Vec<Checked>,
    /// To evaluate on.
    pub eval: Vec<Checked>,
    /// What cannot be used.
    pub(super) unreadable: Vec<Finding>,
}

impl Survey {
    /// Adds rows to train on: of one shape, put into tokens on so many threads.
    pub fn add_train(
        &mut self,
        rows: Vec<Result<Row, TrainError>>,
        shape: &Shape,
        encoder: &Arc<Encoder>,
        threads: usize,
    ) {
        let rows = self.usable(rows, shape, encoder, threads);
        self.train.extend(rows);
    }

    /// Adds rows to evaluate on, as [`Self::add_train`].
    pub fn add_eval(
        &mut self,
        rows: Vec<Result<Row, TrainError>>,
        shape: &Shape,
        encoder: &Arc<Encoder>,
        threads: usize,
    ) {
        let rows = self.usable(rows, shape, encoder, threads);
        self.eval.extend(rows);
    }

    /// Holds out a share of the rows to train on, as a run with this seed does ([`hold_out`]).
    pub fn hold_out(&mut self, share: f64, seed: u64) {
        let examples: Vec<Example> = self.train.iter().map(|row| row.example.clone()).collect();
        let Split { held_out, .. } = hold_out(&examples, share, seed);
        let mut index = 0;
        let held_out = self.train.extract_if(.., |_| {
            index += 1;
            held_out.binary_search(&(index - 1)).is_ok()
        });
        self.eval.extend(held_out);
    }

    fn usable(
        &mut self,
        rows: Vec<Result<Row, TrainError>>,
        shape: &Shape,
        encoder: &Arc<Encoder>,
        threads: usize,
    ) -> Vec<Checked> {
        let (rows, encoder, shape) = (Arc::new(rows), encoder.clone(), shape.clone());
        let count = rows.len();
        let checked = prefetch(count, threads, move |index| match &rows[index] {
            Ok(row) => checked(row, &shape, &encoder),
            Err(error) => Err(finding(error)),
        });
        let mut usable = Vec::new();
        for row in checked {
            match row {
                Ok(row) => usable.push(row),
                Err(finding) => self.unreadable.push(finding),
            }
        }
        usable
    }
}

fn checked(row: &Row, shape: &Shape, encoder: &Encoder) -> Result<Checked, Finding> {
    let example = shape.read(row).map_err(|error| finding(&error))?;
    let encoded = encoder
        .encode(&example)
        .map_err(|error| Fault::Unreadable.at(&row.place, error.to_string()))?;
    Ok(Checked {
        place: row.place.clone(),
        example,
        encoded,
    })
}

fn finding(error: &TrainError) -> Finding {
    match error {
        TrainError::Row { file, line, reason } => {
            let place = Place {
                file: file.as_str().into(),
                line: *line,
            };
            Fault::Unreadable.at(&place, reason)
        }
        other => Fault::Unreadable.of_all(other.to_string()),
    }
}

impl Checked {
    /// What of it has no text.
    pub(super) fn empty(&self) -> Option<&'static str> {
        let blank = |text: &str| text.trim().is_empty();
        match &self.example {
            Example::Completion { completion, .. } if blank(completion) => Some("completion"),
            Example::Completion { prompt, .. } if blank(prompt) => Some("prompt"),
            Example::Text(text) if blank(text) => Some("text"),
            Example::Conversation(messages) if messages.iter().any(|message| blank(&message.content)) => {
                Some("messages")
            }
            _ => None,
        }
    }
}
