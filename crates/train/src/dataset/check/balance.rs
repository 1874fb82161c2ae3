//! Labels: how many rows each has on either side of the split.

use serde::Serialize;

use super::super::split;
use super::{Checked, Fault, Finding};

/// A label this many times rarer than the most frequent one is reported.
const RARE: usize = 10;

/// A label and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The completion, without spaces around it.
    pub label: String,
    /// Rows to train on.
    pub train: usize,
    /// Rows to evaluate on.
    pub eval: usize,
}

/// The labels in order, if the completions of all rows are labels.
pub(super) fn labels(train: &[Checked], eval: &[Checked]) -> Vec<Label> {
    let examples = train.iter().chain(eval).map(|row| &row.example);
    let by_label = split::by_label(examples).unwrap_or_default();
    let label = |(label, rows): (&str, Vec<usize>)| {
        let trained = rows.partition_point(|&row| row < train.len());
        Label {
            label: label.to_owned(),
            train: trained,
            eval: rows.len() - trained,
        }
    };
    by_label.into_iter().map(label).collect()
}

/// Labels that a model learns badly, or that are not evaluated.
pub(super) fn findings(labels: &[Label]) -> Vec<Finding> {
    let most = labels.iter().map(|label| label.train).max().unwrap_or(0);
    let evaluated = labels.iter().any(|label| label.eval > 0);
    let finding = |Label { label, train, eval }: &Label| {
        let reason = match (train, eval) {
            (0, eval) => format!("label {label:?} is evaluated ({eval} rows), but none is trained on"),
            (train, _) if train * RARE < most => {
                format!("label {label:?} has {train} rows to train on, the most frequent one {most}")
            }
            (_, 0) if evaluated => format!("label {label:?} is not evaluated"),
            _ => return None,
        };
        Some(Fault::LabelBalance.of_all(reason))
    };
    let mut findings: Vec<Finding> = labels.iter().filter_map(finding).collect();
    if let [only] = labels {
        findings.push(Fault::LabelBalance.of_all(format!("every row has the label {:?}", only.label)));
    }
    findings
}
