//! Findings: what is wrong, where, and whether it forbids a run.

use serde::Serialize;

use super::super::{Example, Place};
use super::{Checked, Label, Lengths, Survey, balance, twins};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A row that is not read, has not the shape of the others, or cannot be put into tokens.
    Unreadable,
    /// A row to evaluate on that is trained on too, or but for case, spaces and punctuation.
    Leakage,
    /// Two rows that give the same prompt different labels.
    Contradiction,
    /// The same row again.
    Duplicate,
    /// The same row again but for case, spaces and punctuation.
    NearDuplicate,
    /// No text, or no completion.
    Empty,
    /// No token of the row is learned.
    NothingLearned,
    /// It has more tokens than a sample may have.
    Truncated,
    /// What is learned does not end a text or a turn.
    NoEndToken,
    /// The prompt alone has other tokens than it has before its completion.
    PromptEnd,
    /// Labels that are rare, missing on one side, or all the same.
    LabelBalance,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// A run on this data, or its evaluation, would be wrong.
    Error,
    /// It may be meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub fault: Fault,
    /// The row; none for what is of all rows.
    pub place: Option<Place>,
    /// What was found.
    pub detail: String,
}

/// What is known of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Rows to train on.
    pub train: usize,
    /// Rows to evaluate on.
    pub eval: usize,
    /// Rows that cannot be used.
    pub unreadable: usize,
    /// Tokens of rows, before any are cut.
    pub lengths: Lengths,
    /// Labels, if the completions are labels.
    pub labels: Vec<Label>,
    /// What is wrong: by fault, then in the order of the rows.
    pub findings: Vec<Finding>,
}

impl Fault {
    /// As JSON and the table spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Leakage => "leakage",
            Self::Contradiction => "contradiction",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near-duplicate",
            Self::Empty => "empty",
            Self::NothingLearned => "nothing-learned",
            Self::Truncated => "truncated",
            Self::NoEndToken => "no-end-token",
            Self::PromptEnd => "prompt-end",
            Self::LabelBalance => "label-balance",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::Unreadable | Self::Leakage => Severity::Error,
            _ => Severity::Warning,
        }
    }

    pub(super) fn at(self, place: &Place, detail: impl Into<String>) -> Finding {
        Finding {
            place: Some(place.clone()),
            ..self.of_all(detail)
        }
    }

    pub(super) fn of_all(self, detail: impl Into<String>) -> Finding {
        Finding {
            severity: self.severity(),
            fault: self,
            place: None,
            detail: detail.into(),
        }
    }
}

impl Report {
    /// What is wrong with the rows of a survey.
    pub fn of(survey: &Survey) -> Self {
        let rows = || survey.train.iter().chain(&survey.eval);
        let labels = balance::labels(&survey.train, &survey.eval);
        let mut findings = survey.unreadable.clone();
        findings.extend(twins::findings(survey, !labels.is_empty()));
        findings.extend(rows().flat_map(of_row));
        findings.extend(balance::findings(&labels));
        // A stable sort: within a fault the rows keep their order.
        findings.sort_by_key(|finding| finding.fault);
        Self {
            train: survey.train.len(),
            eval: survey.eval.len(),
            unreadable: survey.unreadable.len(),
            lengths: Lengths::of(rows()),
            labels,
            findings,
        }
    }

    /// Findings of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        let of = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of).count()
    }
}

/// What a row by itself shows.
fn of_row(row: &Checked) -> impl Iterator<Item = Finding> {
    let encoded = &row.encoded;
    let learned = encoded.sample.learned_tokens();
    let found = |fault: Fault, found: bool, detail: &dyn Fn() -> String| found.then(|| fault.at(&row.place, detail()));
    let kept = encoded.sample.len();
    let ends = "what is learned does not end a text or a turn, so that the model does not learn to stop";
    let prompt = "the prompt alone has other tokens than before the completion, which a served model goes on from worse; begin the \
                  completion with the space, and end the prompt without one";
    [
        row.empty()
            .map(|what| Fault::Empty.at(&row.place, format!("expected text, found none in its {what}"))),
        found(Fault::NothingLearned, learned == 0, &|| {
            format!("none of its {kept} tokens is learned")
        }),
        found(Fault::Truncated, encoded.truncated, &|| cut(row)),
        found(
            Fault::NoEndToken,
            learned > 0 && !encoded.ends && !encoded.truncated,
            &|| ends.to_owned(),
        ),
        found(Fault::PromptEnd, !encoded.continues, &|| prompt.to_owned()),
    ]
    .into_iter()
    .flatten()
}

fn cut(Checked { encoded, example, .. }: &Checked) -> String {
    let (whole, before) = (encoded.whole, encoded.cut_before);
    let behind = whole - encoded.sample.len() - before;
    match (before, behind) {
        (before, 0) => format!("{before} of {whole} tokens are cut from the beginning of the prompt"),
        (0, behind) if matches!(example, Example::Text(_)) => {
            format!("{behind} of {whole} tokens are cut from the end, unless texts are packed into rows")
        }
        (0, behind) => format!("{behind} of {whole} tokens are cut from the end"),
        _ => format!("of {whole} tokens {before} are cut from the beginning of the prompt and {behind} from the end"),
    }
}
