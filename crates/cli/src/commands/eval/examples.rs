//! What models are evaluated on: the rows of a file as examples, the labels among their completions, and which measures
//! that allows.

use std::collections::BTreeSet;

use anyhow::Result;
use rootstock_train::dataset::{self, Example, Place, Shape};
use rootstock_train::metrics::Words;

use crate::UsageError;
use crate::settings::{EvalSettings, Evidence, Measure};

/// Examples and what is measured on them.
pub struct Examples {
    /// At least one.
    pub list: Vec<Example>,
    /// Where each stands, for messages.
    pub places: Vec<Place>,
    /// Present if a measure is of labels.
    pub labels: Option<Labels>,
    /// In the order of the table.
    pub measures: BTreeSet<Measure>,
    /// What rouge compares of a word.
    pub words: Words,
}

/// What completions are chosen from.
#[derive(Debug, PartialEq, Eq)]
pub struct Labels {
    /// At least two, as they are scored.
    pub texts: Vec<String>,
    /// For each example, which is right.
    pub expected: Vec<usize>,
}

impl Examples {
    /// Reads the rows.
    ///
    /// # Errors
    /// A row that is not of the first one's shape, rows that a measure cannot be taken of, or a completion that is no label.
    pub fn read(settings: &EvalSettings) -> Result<Self> {
        let rows = dataset::load(&settings.rows, &settings.slice)?;
        let shape = match (&settings.template, rows.first()) {
            (Some(template), _) => Shape::Template(template.clone()),
            (None, Some(row)) => Shape::of(row)?,
            (None, None) => return Err(usage("--data-name: there are no rows")),
        };
        let list: Vec<Example> = rows.iter().map(|row| shape.read(row)).collect::<Result<_, _>>()?;
        let places = rows.iter().map(|row| row.place.clone()).collect::<Vec<_>>();
        let found = match settings.labels.is_empty() {
            true => dataset::labels(&list),
            false => Some(settings.labels.clone()),
        };
        let measures = measures(settings, &list, found.is_some())?;
        let of_labels = measures.iter().any(|measure| measure.evidence() == Evidence::Labels);
        let labels = match found.filter(|_| of_labels) {
            Some(texts) => Some(Labels::new(texts, &list, &places)?),
            None => None,
        };
        Ok(Self {
            list,
            places,
            labels,
            measures,
            words: settings.words,
        })
    }

    /// Whether something of this kind has to be asked.
    pub fn need(&self, evidence: Evidence) -> bool {
        self.measures.iter().any(|measure| measure.evidence() == evidence)
    }
}

/// What is measured: what was asked for and what bounds are on, else what the rows allow without generating text.
fn measures(settings: &EvalSettings, examples: &[Example], has_labels: bool) -> Result<BTreeSet<Measure>> {
    let mut measures = settings.measures.clone();
    if measures.is_empty() {
        measures.insert(Measure::Perplexity);
        if has_labels {
            measures.extend([Measure::Accuracy, Measure::MacroF1, Measure::MicroF1]);
        }
    }
    measures.extend(settings.bounded());
    for &measure in &measures {
        let name = measure.name();
        match measure.evidence() {
            Evidence::Labels if !has_labels => return Err(usage(&format!("{name}: {}", no_labels(examples)))),
            Evidence::Text if examples.iter().any(|example| matches!(example, Example::Text(_))) => {
                let reason = format!(
                    "{name}: the rows are plain text, without a completion that a generation could be compared with"
                );
                return Err(usage(&reason));
            }
            _ => {}
        }
    }
    Ok(measures)
}

/// Why there are no labels.
fn no_labels(examples: &[Example]) -> String {
    let completions: Option<BTreeSet<&str>> = examples.iter().map(completion).collect();
    match completions {
        None => {
            "expected rows of a prompt and a completion that is a label, got conversations or plain text".to_owned()
        }
        Some(completions) => format!(
            "expected a few completions that repeat, as labels do; {} of {} differ; give the labels with --labels",
            completions.len(),
            examples.len()
        ),
    }
}

fn completion(example: &Example) -> Option<&str> {
    match example {
        Example::Completion { completion, .. } => Some(completion),
        Example::Conversation(_) | Example::Text(_) => None,
    }
}

impl Labels {
    /// Finds each example's completion among `texts`; white space around it does not count.
    fn new(texts: Vec<String>, examples: &[Example], places: &[Place]) -> Result<Self> {
        let expected = examples.iter().zip(places).map(|(example, place)| {
            let Some(completion) = completion(example) else {
                return Err(usage(
                    "--labels: expected rows of a prompt and a completion, got conversations or plain text",
                ));
            };
            let found = texts.iter().position(|text| text.trim() == completion.trim());
            found.ok_or_else(|| {
                let reason = format!("expected one of the labels {texts:?} as completion, got {completion:?}");
                place.error(reason).into()
            })
        });
        let expected = expected.collect::<Result<_>>()?;
        Ok(Self { texts, expected })
    }
}

fn usage(reason: &str) -> anyhow::Error {
    UsageError(reason.to_owned()).into()
}
