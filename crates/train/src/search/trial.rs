//! A trial: what was tried and what came of it, as a line of `trials.jsonl`.

use serde::{Deserialize, Serialize};

use super::pruning::{Direction, MedianPruning};
use super::space::Parameters;
use super::table::cell;

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has a result.
    Finished,
    /// It was worse than the others on its way.
    Pruned,
    /// It could not go on.
    Failed,
}

/// A trial that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Its number, from 0.
    pub trial: usize,
    /// What was tried.
    pub parameters: Parameters,
    /// How it ended.
    pub state: State,
    /// Steps and the values there, as they were reported. None is a value that is no finite number.
    pub values: Vec<(u64, Option<f64>)>,
    /// What it came to; none where it was not finished, or came to no finite number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Trial {
    /// Its value at a step.
    pub(super) fn value_at(&self, step: u64) -> Option<f64> {
        let at = self.values.iter().find(|(at, _)| *at == step);
        at.and_then(|(_, value)| *value)
    }
}

/// What a trial is told when it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Go on.
    Continue,
    /// End now, with [`TrialEnd::Value`] of whatever there is: the trial counts as pruned.
    Prune,
}

/// How what runs a trial came back.
#[derive(Debug, Clone, PartialEq)]
pub enum TrialEnd {
    /// With a result.
    Value(f64),
    /// It cannot be done, for a reason; the search goes on, and tries it again when it is resumed.
    Failed(String),
    /// The user stopped the search: nothing of this trial is kept, and it is repeated when the search is resumed.
    Interrupted,
}

/// Where a running trial reports its values.
#[derive(Debug)]
pub struct Reports<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) others: &'a [Trial],
    pub(super) pruning: Option<MedianPruning>,
    pub(super) direction: Direction,
    pub(super) values: Vec<(u64, Option<f64>)>,
    pub(super) pruned: bool,
}

impl Reports<'_> {
    /// What the trial tries, in a line.
    pub fn parameters(&self) -> String {
        let parameters = self.parameters.iter();
        let parameters: Vec<_> = parameters
            .map(|(name, value)| format!("{name} {}", cell(value)))
            .collect();
        parameters.join(", ")
    }

    /// Reports the value at a step and hears whether the trial is worth going on.
    pub fn report(&mut self, step: u64, value: f64) -> Decision {
        self.values.push((step, value.is_finite().then_some(value)));
        let prunes = |pruning: MedianPruning| pruning.prunes(self.others, self.direction, step, value);
        self.pruned = self.pruned || self.pruning.is_some_and(prunes);
        match self.pruned {
            true => Decision::Prune,
            false => Decision::Continue,
        }
    }
}
