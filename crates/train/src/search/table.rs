//! What a search found, for people as a table and a plot, for programs as JSON.

use rootstock_report::quantity::significant;
use rootstock_report::table::aligned;
use rootstock_report::{LinePlot, Mark, Scale, Series};
use serde_json::{Value, json};

use super::trial::{State, Trial};
use super::{Direction, Search};

impl Search {
    /// A row per trial that has ended: number, parameters, state, result; the best is marked.
    pub fn table(&self) -> String {
        aligned(&self.rows())
    }

    /// The cells of the table, its header first.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let best = self.best().map(|trial| trial.trial);
        let header = ["trial"].into_iter().chain(self.space.names());
        let header: Vec<String> = header.chain(["state", "result"]).map(str::to_owned).collect();
        let rows = self.trials.iter().map(|trial| self.row(trial, best));
        std::iter::once(header).chain(rows).collect()
    }

    fn row(&self, trial: &Trial, best: Option<usize>) -> Vec<String> {
        let parameter = |name: &str| trial.parameters.get(name).map(cell).unwrap_or_default();
        let result = match (&trial.error, trial.result) {
            (Some(error), _) => error.replace(char::is_control, " "),
            (None, Some(result)) if best == Some(trial.trial) => format!("{}  best", significant(result)),
            (None, Some(result)) => significant(result),
            (None, None) => trial.values.last().map(at_step).unwrap_or_default(),
        };
        let state = match trial.state {
            State::Finished => "finished",
            State::Pruned => "pruned",
            State::Failed => "failed",
        };
        let mut row = vec![trial.trial.to_string()];
        row.extend(self.space.names().map(parameter));
        row.extend([state.to_owned(), result]);
        row
    }

    /// Everything: `direction`, `planned`, `best` (a trial or null) and `trials` as they are in the file.
    pub fn json(&self) -> Value {
        json!({
            "direction": self.settings.direction,
            "planned": self.planned(),
            "best": self.best(),
            "trials": self.trials,
        })
    }

    /// The results by trial, and the best so far.
    pub fn plot(&self) -> LinePlot {
        let result = |trial: &Trial| Some((trial.trial as f64, trial.result?));
        let points: Vec<(f64, f64)> = self.trials.iter().filter_map(result).collect();
        let best = points.iter().scan(f64::NAN, |best, &(x, value)| {
            if self.settings.direction.is_better(value, *best) {
                *best = value;
            }
            Some((x, *best))
        });
        let series = |name: &str, mark, points| Series {
            name: name.to_owned(),
            mark,
            points,
        };
        let kind = match self.settings.direction {
            Direction::Minimize => "lower is better",
            Direction::Maximize => "higher is better",
        };
        LinePlot {
            title: format!("Results of trials, {kind}"),
            x_label: "trial".to_owned(),
            x_scale: Scale::Linear,
            series: vec![
                series("best so far", Mark::Line, best.collect()),
                series("result", Mark::Dots, points.clone()),
            ],
        }
    }
}

impl Search {
    /// The results over each parameter.
    pub fn plots(&self) -> Vec<LinePlot> {
        let over = |name: &str| {
            let (scale, place) = self.space.scale(name);
            let point = |trial: &Trial| Some((place(trial.parameters.get(name)?)?, trial.result?));
            LinePlot {
                title: format!("Results over {name}"),
                x_label: name.to_owned(),
                x_scale: scale,
                series: vec![Series {
                    name: "result".to_owned(),
                    mark: Mark::Dots,
                    points: self.trials.iter().filter_map(point).collect(),
                }],
            }
        };
        self.space.names().map(over).collect()
    }
}

/// Text without its quotes, but where they keep a line break or an escape code out of the table.
pub(super) fn cell(value: &Value) -> String {
    match value.as_str() {
        Some(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => value.to_string(),
    }
}

/// What a trial without a result had last.
fn at_step((step, value): &(u64, Option<f64>)) -> String {
    match value {
        Some(value) => format!("{} at step {step}", significant(*value)),
        None => format!("no number at step {step}"),
    }
}
