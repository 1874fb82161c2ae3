//! What is known of a run before it begins ([`Facts`]), and what came of it ([`Outcome`]): `train_results.json` and `--json`.

use std::path::Path;

use rootstock_model::packing::WeightPrecision;
use rootstock_model::{ArchSpec, Checkpoint};
use rootstock_report::quantity::count;
use rootstock_train::adapter::Attached;
use rootstock_train::records::{Best, Record};
use rootstock_train::report::DatasetFacts;
use serde::Serialize;

use super::rows::Rows;
use crate::args::Method;
use crate::settings::FinetuneSettings;

/// What is known before the first step.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Name of the base.
    pub base: String,
    /// Hash of its weights.
    pub base_hash: String,
    /// File of a GGUF base.
    #[serde(skip)]
    pub gguf: Option<String>,
    /// `lora`, `qlora`, `full`, `houlsby` or `pfeiffer`.
    pub method: &'static str,
    /// `q4` or `nf4`, of `qlora`.
    pub quant_type: Option<&'static str>,
    /// File or folder of the rows, without where it lies.
    pub data_name: String,
    /// What is in it.
    pub dataset: DatasetFacts,
    /// Samples without anything to learn.
    pub left_out: usize,
    /// Trained elements.
    pub trainable_parameters: usize,
    /// Those and the base's that are not trained.
    pub all_parameters: usize,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The folder of the adapter, or that the model is below.
    pub output: String,
    /// `complete`, `stopped` by evaluations that no longer improved, or `interrupted`.
    pub ending: String,
    /// Optimizer steps done.
    pub steps: u64,
    /// Passes over the rows.
    pub epoch: f64,
    /// Tokens read, repeated ones each time.
    pub tokens: u64,
    /// Of these, tokens that the loss was taken on.
    pub learned_tokens: u64,
    /// Mean loss since the record before the last.
    pub loss: Option<f64>,
    /// Of what is held out, with the weights that were written.
    pub eval_loss: Option<f64>,
    /// Its exponential.
    pub eval_perplexity: Option<f64>,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Seconds, over all parts of a run that went on.
    pub runtime: f64,
    /// Tokens by seconds, evaluations included.
    pub tokens_per_second: f64,
    /// The largest resident memory, in bytes.
    pub peak_memory: Option<u64>,
    #[serde(flatten)]
    pub facts: Facts,
    /// What was warned of.
    pub warnings: Vec<String>,
    /// What was logged.
    #[serde(skip)]
    pub records: Vec<Record>,
}

impl Facts {
    /// Of a run that has not begun.
    pub fn new(
        (settings, method): (&FinetuneSettings, &'static str),
        checkpoint: &Checkpoint,
        attached: &Attached,
        rows: &Rows,
    ) -> Self {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let model = &settings.model.path;
        let trainable = attached.parameters.elements();
        Self {
            base: settings.model.name.clone(),
            base_hash: checkpoint.hash().to_string(),
            gguf: name(model).filter(|_| model.is_file()),
            method,
            quant_type: match settings.weights() {
                WeightPrecision::Four => Some("q4"),
                WeightPrecision::Nf4 => Some("nf4"),
                WeightPrecision::Stored | WeightPrecision::Eight => None,
            },
            data_name: name(&settings.rows).unwrap_or_default(),
            dataset: rows.facts(),
            left_out: rows.left_out,
            trainable_parameters: trainable,
            all_parameters: match settings.method {
                Method::Full => trainable,
                _ => elements(checkpoint.spec()) + trainable,
            },
        }
    }

    /// Says what will be trained on what; the first line is that of peft's `print_trainable_parameters`.
    pub fn announce(&self) {
        let (trained, all) = (self.trainable_parameters, self.all_parameters);
        eprintln!(
            "trainable params: {} || all params: {} || trainable%: {:.4}",
            count(trained as u64),
            count(all as u64),
            100.0 * trained as f64 / all as f64
        );
        let DatasetFacts {
            rows,
            held_out,
            truncated,
            ..
        } = self.dataset;
        eprintln!("{rows} rows to train on, {held_out} held out, {truncated} samples cut");
        if let Some(warning) = self.warning() {
            eprintln!("warning: {warning}");
        }
    }

    /// What should be known of the rows.
    pub fn warning(&self) -> Option<String> {
        let left_out = self.left_out;
        (left_out > 0).then(|| {
            format!("{left_out} samples are left out: nothing in them is to be learned; `rootstock data check` names their rows")
        })
    }
}

/// Elements of the base's maps.
fn elements(spec: &ArchSpec) -> usize {
    let maps = spec.sites().filter_map(|site| spec.shape(site));
    let all: usize = maps.map(|(inputs, outputs)| inputs * outputs).sum();
    let shared = if spec.tied_output {
        spec.vocab_size * spec.hidden_size
    } else {
        0
    };
    all - shared
}
