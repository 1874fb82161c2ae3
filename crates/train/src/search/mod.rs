//! Search over settings, random or on a grid, with median pruning. What a trial does is its owner's business: it gets parameters
//! and reports values. A search that was stopped goes on from `trials.jsonl`.

mod page;
mod pruning;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

pub use page::Page;
pub use pruning::{Direction, MedianPruning};
pub use space::{Dimension, DimensionType, Parameters, SearchSpace};
pub use trial::{Decision, Reports, State, Trial, TrialEnd};

use crate::lines::Lines;
use crate::{Random, TrainError};

/// A grid of more points is refused: nobody meant it.
const LARGEST_GRID: usize = 10_000;

/// Draws of points that were all tried already, after which a space counts as used up.
const MOST_REPEATS: usize = 1000;

/// Which points of a space are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// So many, none twice, drawn by a seed; fewer where the space has no more.
    Random {
        /// How many.
        trials: usize,
        /// The same seed draws the same points.
        seed: u64,
    },
    /// All.
    Grid,
}

/// How a search goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchSettings {
    /// Which points are tried.
    pub strategy: Strategy,
    /// Which results are good.
    pub direction: Direction,
    /// When trials end early; never without.
    pub pruning: Option<MedianPruning>,
}

/// A search and what it has found so far.
#[derive(Debug)]
pub struct Search {
    settings: SearchSettings,
    space: SearchSpace,
    plan: Vec<Parameters>,
    trials: Vec<Trial>,
    /// Number of the trial that ended last.
    last: Option<usize>,
    lines: Lines,
}

impl Search {
    /// Starts a search that keeps its trials in `file`, or goes on with it where there are some.
    ///
    /// # Errors
    /// A grid without end, a file that cannot be read or written, or one with trials of another search.
    pub fn open(file: &Path, space: &SearchSpace, settings: SearchSettings) -> Result<Self, TrainError> {
        let plan = points(space, settings.strategy)?;
        let (lines, ended) = Lines::open(file, |_: &Trial| true)?;
        let mut trials: Vec<Trial> = Vec::new();
        for (line, trial) in ended.into_iter().enumerate() {
            if plan.get(trial.trial) != Some(&trial.parameters) {
                return Err(TrainError::Row {
                    file: file.display().to_string(),
                    line: line + 1,
                    reason: format!(
                        "trial {} is of another search (space, strategy or seed); go on with those, or take another file",
                        trial.trial
                    ),
                });
            }
            // One that failed may have been tried again.
            trials.retain(|earlier| earlier.trial != trial.trial);
            trials.push(trial);
        }
        trials.sort_by_key(|trial| trial.trial);
        Ok(Self {
            settings,
            space: space.clone(),
            plan,
            trials,
            last: None,
            lines,
        })
    }

    /// Runs what is left, in order; `objective` gets a trial's number and parameters, `ended` the search with that trial in it.
    /// Returns whether all were run.
    ///
    /// # Errors
    /// A file that cannot be written, or what `ended` gives.
    pub fn run(
        &mut self,
        mut objective: impl FnMut(usize, &Parameters, &mut Reports<'_>) -> TrialEnd,
        mut ended: impl FnMut(&Self) -> Result<(), TrainError>,
    ) -> Result<bool, TrainError> {
        let done = |trial: &&Trial| trial.state != State::Failed;
        let done: HashSet<usize> = self.trials.iter().filter(done).map(|trial| trial.trial).collect();
        for number in (0..self.plan.len()).filter(|number| !done.contains(number)) {
            let mut reports = Reports {
                parameters: &self.plan[number],
                others: &self.trials,
                pruning: self.settings.pruning,
                direction: self.settings.direction,
                values: Vec::new(),
                pruned: false,
            };
            let end = objective(number, &self.plan[number], &mut reports);
            let (values, pruned) = (reports.values, reports.pruned);
            let (state, result, error) = match end {
                TrialEnd::Interrupted => return Ok(false),
                TrialEnd::Failed(error) => (State::Failed, None, Some(error)),
                TrialEnd::Value(_) if pruned => (State::Pruned, None, None),
                TrialEnd::Value(value) => (State::Finished, Some(value).filter(|value| value.is_finite()), None),
            };
            self.keep(Trial {
                trial: number,
                parameters: self.plan[number].clone(),
                state,
                values,
                result,
                error,
            })?;
            ended(self)?;
        }
        Ok(true)
    }

    fn keep(&mut self, trial: Trial) -> Result<(), TrainError> {
        self.lines.append(&trial)?;
        self.last = Some(trial.trial);
        self.trials.retain(|earlier| earlier.trial != trial.trial);
        let after = self.trials.partition_point(|earlier| earlier.trial < trial.trial);
        self.trials.insert(after, trial);
        Ok(())
    }

    /// The trials that have ended, by number.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The trial that ended last since the search was opened.
    pub fn last(&self) -> Option<&Trial> {
        self.trials.iter().find(|trial| Some(trial.trial) == self.last)
    }

    /// How many trials the search has in all.
    pub fn planned(&self) -> usize {
        self.plan.len()
    }

    /// The finished trial with the best result; the first of those that are equal.
    pub fn best(&self) -> Option<&Trial> {
        let better = |best: Option<&Trial>, trial: &Trial| match (best.and_then(|best| best.result), trial.result) {
            (Some(best), Some(result)) => self.settings.direction.is_better(result, best),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let pick = |best, trial| if better(best, trial) { Some(trial) } else { best };
        self.trials.iter().fold(None, pick)
    }
}

/// All points to try, by the numbers of their trials. They depend on nothing but the space and the strategy, so that a resumed search
/// has the same.
///
/// # Errors
/// A grid without end.
pub fn points(space: &SearchSpace, strategy: Strategy) -> Result<Vec<Parameters>, TrainError> {
    let (trials, seed) = match strategy {
        Strategy::Grid => return space.grid(LARGEST_GRID),
        Strategy::Random { trials, seed } => (trials, seed),
    };
    let mut random = Random::new(seed, "search");
    let (mut plan, mut seen, mut repeats) = (Vec::new(), HashSet::new(), 0);
    while plan.len() < trials && repeats < MOST_REPEATS {
        let point = space.sample(&mut random);
        let key: Vec<String> = point.values().map(Value::to_string).collect();
        match seen.insert(key) {
            true => plan.push(point),
            false => repeats += 1,
        }
    }
    Ok(plan)
}
