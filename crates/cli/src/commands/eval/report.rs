//! From answers to numbers: a row per model or adapter, the table and the JSON of them, and which bounds are not kept.

use anyhow::{Result, anyhow};
use rootstock_report::table::aligned_right;
use rootstock_train::dataset::Example;
use rootstock_train::metrics::{Bleu, Confusion, Likelihood, Rouge, exact_match};
use serde_json::{Map, Value, json};

use super::asking::Answer;
use super::examples::{Examples, Labels};
use super::questions::reference;
use crate::settings::{Bound, EvalSettings, Measure};

/// What was measured of a model or of an adapter on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The model's name.
    pub model: String,
    /// The adapter's, if it is one.
    pub adapter: Option<String>,
    /// Tokens that the perplexity is over.
    pub tokens: u64,
    /// Examples that were cut.
    pub truncated: usize,
    /// By column.
    pub values: Vec<(Measure, f64)>,
}

/// Counts over a candidate's answers.
#[derive(Default)]
struct Tally {
    likelihood: Likelihood,
    confusion: Option<Confusion>,
    truncated: usize,
    texts: u64,
    matches: u64,
    bleu: Bleu,
    rouge: Rouge,
}

impl Row {
    /// What the answers of one candidate make, one per example.
    pub fn new<'a>(
        model: &str,
        adapter: Option<&str>,
        examples: &Examples,
        answers: impl Iterator<Item = &'a Answer>,
    ) -> Self {
        let mut tally = Tally {
            confusion: examples
                .labels
                .as_ref()
                .map(|labels| Confusion::new(labels.texts.len())),
            rouge: Rouge::new(examples.words),
            ..Tally::default()
        };
        for (index, (example, answer)) in examples.list.iter().zip(answers).enumerate() {
            tally.add(index, example, examples.labels.as_ref(), answer);
        }
        let value = |&measure: &Measure| Some((measure, tally.value(measure)?));
        Self {
            model: model.to_owned(),
            adapter: adapter.map(str::to_owned),
            tokens: tally.likelihood.tokens,
            truncated: tally.truncated,
            values: examples.measures.iter().filter_map(value).collect(),
        }
    }

    /// As the table calls it.
    pub fn name(&self) -> String {
        match &self.adapter {
            Some(adapter) => format!("{} + {adapter}", self.model),
            None => self.model.clone(),
        }
    }

    /// Of a column.
    pub fn value(&self, measure: Measure) -> Option<f64> {
        let found = self.values.iter().find(|(own, _)| *own == measure);
        found.map(|(_, value)| *value)
    }

    /// By how much a value is on the wrong side of its bound, if it is.
    fn failure(&self, bound: Bound, side: &str) -> Option<String> {
        let (name, measure) = (self.name(), bound.measure.name());
        let Some(value) = self.value(bound.measure) else {
            return Some(format!("{measure} of {name} was not measured"));
        };
        let out_by = match side {
            "below" => bound.value - value,
            _ => value - bound.value,
        };
        let (value, by) = (shown(bound.measure, value), shown(bound.measure, out_by));
        (out_by > 0.0).then(|| format!("{measure} of {name} is {value}, {by} {side} {}", bound.value))
    }

    fn json(&self) -> Value {
        let metrics: Map<_, _> = self
            .values
            .iter()
            .map(|(measure, value)| (measure.name().to_owned(), json!(value)))
            .collect();
        json!({
            "name": self.name(),
            "model": self.model,
            "adapter": self.adapter,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "metrics": metrics,
        })
    }
}

impl Tally {
    fn add(&mut self, index: usize, example: &Example, labels: Option<&Labels>, answer: &Answer) {
        self.likelihood.merge(answer.likelihood);
        self.truncated += usize::from(answer.truncated);
        if let (Some(confusion), Some(labels)) = (&mut self.confusion, labels) {
            confusion.add(labels.expected[index], likeliest(&answer.labels));
        }
        if let (Some(text), Some(reference)) = (&answer.text, reference(example)) {
            self.texts += 1;
            self.matches += u64::from(exact_match(text, reference));
            self.bleu.add(text, reference);
            self.rouge.add(text, reference);
        }
    }

    /// `None` where nothing was asked for it.
    fn value(&self, measure: Measure) -> Option<f64> {
        let confusion = self.confusion.as_ref();
        let rouge = || self.rouge.mean();
        match measure {
            Measure::Perplexity => self.likelihood.perplexity(),
            Measure::Accuracy => confusion?.accuracy(),
            Measure::MacroF1 => confusion?.macro_f1(),
            Measure::MicroF1 => confusion?.micro_f1(),
            Measure::ExactMatch => (self.texts > 0).then(|| self.matches as f64 / self.texts as f64),
            Measure::Bleu => (self.texts > 0).then(|| self.bleu.score()),
            Measure::Rouge1 => Some(rouge()?.rouge_1),
            Measure::Rouge2 => Some(rouge()?.rouge_2),
            Measure::RougeL => Some(rouge()?.rouge_l),
        }
    }
}

/// The label with the largest log-probability; of equal ones the first.
fn likeliest(logprobs: &[f64]) -> usize {
    let mut best = 0;
    for (index, logprob) in logprobs.iter().enumerate() {
        if *logprob > logprobs[best] {
            best = index;
        }
    }
    best
}

/// The whole outcome.
pub struct Report {
    rows: Vec<Row>,
    measures: Vec<Measure>,
    /// Where the examples are from, for whoever reads the JSON later.
    head: Map<String, Value>,
    least: Vec<Bound>,
    most: Vec<Bound>,
    /// Bounds hold for adapters; without any, for bases.
    of_adapters: bool,
}

impl Report {
    /// The rows, in the order of the table.
    pub fn new(settings: &EvalSettings, examples: &Examples, rows: Vec<Row>) -> Self {
        let mut head = Map::new();
        head.insert("data".to_owned(), json!(settings.rows.display().to_string()));
        head.insert("examples".to_owned(), json!(examples.list.len()));
        if let Some(labels) = &examples.labels {
            head.insert("labels".to_owned(), json!(labels.texts));
        }
        Self {
            rows,
            measures: examples.measures.iter().copied().collect(),
            head,
            least: settings.least.clone(),
            most: settings.most.clone(),
            of_adapters: !settings.adapters.is_empty(),
        }
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let mut object = self.head.clone();
        object.insert("models".to_owned(), self.rows.iter().map(Row::json).collect());
        object.insert("failures".to_owned(), json!(self.failures()));
        Value::Object(object)
    }

    /// A line per row, a column per measure.
    pub fn table(&self) -> String {
        let names = self.measures.iter().map(|measure| measure.name().to_owned());
        let head = std::iter::once("model".to_owned()).chain(names);
        let mut lines: Vec<Vec<String>> = vec![head.collect()];
        for row in &self.rows {
            let values = self.measures.iter().map(|&measure| match row.value(measure) {
                Some(value) => shown(measure, value),
                None => "-".to_owned(),
            });
            lines.push(std::iter::once(row.name()).chain(values).collect());
        }
        aligned_right(&lines)
    }

    /// Succeeds if every bound is kept.
    ///
    /// # Errors
    /// One is not; the message says of whom and by how much.
    pub fn verdict(&self) -> Result<()> {
        let failures = self.failures();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(anyhow!(failures.join("\n       "))),
        }
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for row in self.rows.iter().filter(|row| row.adapter.is_some() == self.of_adapters) {
            let bounds = self.least.iter().map(|bound| (bound, "below"));
            for (bound, side) in bounds.chain(self.most.iter().map(|bound| (bound, "above"))) {
                failures.extend(row.failure(*bound, side));
            }
        }
        failures
    }
}

/// With as many digits as mean something.
fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Perplexity => format!("{value:.3}"),
        Measure::Bleu => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
