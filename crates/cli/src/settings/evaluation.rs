//! What `eval` measures, on which models and rows, and where it fails: arguments checked before anything is loaded.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rootstock_engine::EngineSettings;
use rootstock_train::dataset::{Slice, TextTemplate};
use rootstock_train::metrics::Words;

use super::{BaseSettings, Bound, Measure, Result, usage, within};
use crate::args::{EvalArgs, ModelArgs};
use crate::models::{Located, locate_adapter};

/// Bounds for examples that all run for one caller, as many together as fill a step.
pub(super) const EVALUATION: EngineSettings = EngineSettings {
    max_sequences: 32,
    // More than `eval` has running at any time.
    max_waiting: 1 << 20,
    max_batch_rows: 512,
    prefix_cache: true,
    decode_slowdown: f64::INFINITY,
};

/// What `eval` runs with.
#[derive(Debug, Clone)]
pub struct EvalSettings {
    /// At least one, each with a name of its own.
    pub models: Vec<BaseSettings>,
    /// Each is evaluated on each model.
    pub adapters: Vec<Located>,
    /// Whether the models themselves are evaluated.
    pub bases: bool,
    /// File or folder of rows.
    pub rows: PathBuf,
    /// Which of them.
    pub slice: Slice,
    /// For rows of any columns.
    pub template: Option<TextTemplate>,
    /// Most tokens of an example.
    pub max_length: Option<usize>,
    /// What is asked for; empty where the rows decide.
    pub measures: BTreeSet<Measure>,
    /// What completions are chosen from, where that is said.
    pub labels: Vec<String>,
    /// Most tokens of a generation.
    pub max_tokens: usize,
    /// What rouge compares of a word.
    pub words: Words,
    /// Values that may not be fallen short of.
    pub least: Vec<Bound>,
    /// Values that may not be exceeded.
    pub most: Vec<Bound>,
}

impl EvalSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// A model, an adapter or rows that are not there, a number out of range, or a bound that no good model keeps.
    pub fn new(args: &EvalArgs) -> Result<Self> {
        let measures = args.metrics.iter().flat_map(|metric| metric.measures());
        let max_length = args.max_length.map(|length| within("max-length", length, 2, 1 << 24));
        let settings = Self {
            models: models(args)?,
            adapters: adapters(args)?,
            bases: !args.adapters_only,
            rows: rows(args)?,
            slice: args.eval_split.clone(),
            template: args.text_template.as_deref().map(template).transpose()?,
            max_length: max_length.transpose()?,
            measures: measures.copied().collect(),
            labels: args.labels.clone(),
            max_tokens: within("max-tokens", args.max_tokens, 1, 1 << 24)?,
            words: match args.use_stemmer {
                true => Words::Stemmed,
                false => Words::Whole,
            },
            least: args.fail_below.clone(),
            most: args.fail_above.clone(),
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        if self.adapters.is_empty() && !self.bases {
            return Err(usage(
                "--adapters-only: there is no --adapter, so that nothing would be evaluated",
            ));
        }
        if let Some(bound) = self.least.iter().find(|bound| bound.measure.better_when_lower()) {
            return Err(usage(format!(
                "--fail-below {bound}: it is better when lower; use --fail-above {bound}"
            )));
        }
        if let Some(bound) = self.most.iter().find(|bound| !bound.measure.better_when_lower()) {
            return Err(usage(format!(
                "--fail-above {bound}: it is better when higher; use --fail-below {bound}"
            )));
        }
        let mut labels: Vec<_> = self.labels.iter().map(|label| label.trim()).collect();
        labels.sort_unstable();
        labels.dedup();
        match labels.len() {
            distinct if distinct < self.labels.len() => Err(usage("--labels: two of them are the same")),
            1 => Err(usage("--labels: expected two labels at least, got one")),
            _ if labels.first() == Some(&"") => Err(usage("--labels: one of them is empty")),
            _ => Ok(()),
        }
    }

    /// Measures that a bound is set on.
    pub fn bounded(&self) -> impl Iterator<Item = Measure> {
        self.least.iter().chain(&self.most).map(|bound| bound.measure)
    }
}

fn models(args: &EvalArgs) -> Result<Vec<BaseSettings>> {
    let located = |model: Option<String>| {
        let model = ModelArgs {
            model,
            models_dir: args.models_dir.clone(),
            catalog: args.catalog.clone(),
        };
        BaseSettings::new(model, &args.run, EVALUATION)
    };
    if args.model.is_empty() {
        return Ok(vec![located(None)?]);
    }
    let found = args.model.iter().map(|model| located(Some(model.clone())));
    let mut models = found.collect::<Result<Vec<_>>>()?;
    let names = models.iter_mut().map(|model| &mut model.name);
    tell_apart(names.zip(args.model.iter().cloned()).collect());
    Ok(models)
}

fn adapters(args: &EvalArgs) -> Result<Vec<Located>> {
    let found = args.adapter.iter();
    let found = found.map(|adapter| locate_adapter(adapter, args.adapters.as_deref()));
    let mut adapters = found.collect::<Result<Vec<_>>>()?;
    let names = adapters.iter_mut().map(|adapter| &mut adapter.name);
    let given = args.adapter.iter().map(|adapter| adapter.display().to_string());
    tell_apart(names.zip(given).collect());
    Ok(adapters)
}

fn rows(args: &EvalArgs) -> Result<PathBuf> {
    let Some(rows) = &args.data_name else {
        return Err(usage("--data-name is missing; give a file of rows to evaluate on"));
    };
    match rows.exists() {
        true => Ok(rows.clone()),
        false => Err(usage(format!(
            "--data-name: there is no file or folder {}",
            rows.display()
        ))),
    }
}

fn template(text: &str) -> Result<TextTemplate> {
    TextTemplate::typed(text).map_err(|error| usage(format!("--text-template: {error}")))
}

/// Where two things have the same name, each gets the text it was given as.
pub(super) fn tell_apart(mut names: Vec<(&mut String, String)>) {
    let all: Vec<String> = names.iter().map(|(name, _)| (**name).clone()).collect();
    for (name, given) in &mut names {
        if all.iter().filter(|other| *other == &**name).count() > 1 {
            **name = std::mem::take(given);
        }
    }
}
