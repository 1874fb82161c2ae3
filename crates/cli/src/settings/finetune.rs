//! What `finetune` runs with, from its arguments.

mod method;

use std::path::{Path, PathBuf};

use anyhow::Result;
use rootstock_decoder::Precision;
use rootstock_model::FloatType;
use rootstock_model::packing::WeightPrecision;
use rootstock_train::adapter::{BottleneckSettings, Initialisation, LoraSettings};
use rootstock_train::dataset::{Slice, TextTemplate};
use rootstock_train::optimizer::{AdamWSettings, MomentType};
use rootstock_train::run::RunSettings;
use rootstock_train::schedule::{ScheduleKind, ScheduleOptions, Warmup};
use serde_json::Value;

use super::device::{built_in, precision};
use super::{usage, within};
use crate::args::{Device, FinetuneArgs, Method, ModelArgs, Optimizer, QuantType, RecordArgs, ReportTo, TrainingArgs};
use crate::models::{Located, Models};
pub use method::float;
use method::{bottleneck, has_no_pairs, lora, quant_type};

/// What `finetune` runs with.
#[derive(Debug, Clone)]
pub struct FinetuneSettings {
    /// The base.
    pub model: Located,
    /// Where the adapter goes, or the model.
    pub output: PathBuf,
    /// What it is called: the name of that folder.
    pub title: String,
    /// Its folder may have something in it.
    pub overwrite: bool,
    /// What is trained.
    pub method: Method,
    /// What `qlora` rounds the weights to.
    pub quant_type: QuantType,
    /// Element type of a model that is written.
    pub save_float: FloatType,
    /// Rows.
    pub rows: PathBuf,
    /// How rows become text, where their columns do not tell.
    pub template: Option<TextTemplate>,
    /// Rows trained on.
    pub train: Slice,
    /// Rows held out; `None` for a share of those.
    pub eval: Option<Slice>,
    /// That share.
    pub eval_share: f64,
    /// Longest sequence.
    pub max_length: usize,
    /// Several samples to a row.
    pub packing: bool,
    /// The adapter.
    pub lora: LoraSettings,
    /// Bottlenecks in place of pairs, where the method says so.
    pub bottleneck: Option<BottleneckSettings>,
    /// The adapter to go on from.
    pub adapter: Option<PathBuf>,
    /// The run.
    pub run: RunSettings,
    /// Where steps are computed.
    pub device: Device,
    /// Of products with frozen weights.
    pub precision: Precision,
    /// Less memory for more time.
    pub checkpointing: bool,
    /// TensorBoard's folder.
    pub events: Option<PathBuf>,
    /// Where to go on from.
    pub resume: Option<Resume>,
    /// Threads.
    pub threads: usize,
    /// Rows held out that base and adapter answer.
    pub report_samples: usize,
}

/// Which checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The last one of the output folder, if it has one.
    Last,
    /// This one.
    From(PathBuf),
}

impl FinetuneSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// What is missing, out of range, or refused with its reason.
    pub fn new(args: FinetuneArgs) -> Result<Self> {
        let model = ModelArgs {
            model: args.model,
            models_dir: args.models_dir,
            catalog: args.catalog,
        };
        let model = Models::new(&model)?.locate(model.model.as_deref())?;
        if args.trust_remote_code {
            has_no_code(&model.path)?;
        }
        // Asked for here and not by clap, so that the settings file can give it.
        let output = args
            .output
            .ok_or_else(|| usage("--output is missing: the folder that the adapter is written to"))?;
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let (data, device) = (args.data, built_in(args.training.device)?);
        let events = match args.records.report_to {
            ReportTo::None => None,
            ReportTo::Tensorboard => Some(args.records.logging_dir.clone().unwrap_or_else(|| output.join("runs"))),
        };
        if args.method == Method::Full {
            has_no_pairs(&args.adapter, &args.training)?;
        }
        let template = data.text_template.as_deref().map(TextTemplate::typed);
        Ok(Self {
            model,
            title: last_name(&output),
            output,
            overwrite: args.overwrite,
            method: args.method,
            quant_type: quant_type(args.method, args.quant_type)?,
            save_float: float(args.save_dtype),
            rows: rows(data.data_name)?,
            template: template
                .transpose()
                .map_err(|error| usage(format!("--text-template: {error}")))?,
            train: data.train_split,
            eval: data.eval_split,
            eval_share: within("eval-share", data.eval_share, 0.0, 0.9)?,
            max_length: within("max-length", data.max_length, 2, 1 << 20)?,
            packing: data.packing,
            bottleneck: bottleneck(args.method, &args.adapter)?,
            lora: lora(args.adapter.clone())?,
            adapter: args.adapter.adapter,
            precision: precision(args.training.precision, device)?,
            device,
            // Who asks for four bits is short of memory; peft's preparation of such models turns it on as well.
            checkpointing: args
                .training
                .gradient_checkpointing
                .unwrap_or(args.method == Method::Qlora),
            resume: resume(args.records.resume_from_checkpoint.as_deref()),
            report_samples: args.records.report_samples,
            run: RunSettings {
                memory_limit: args.memory_limit.map(|size| size.0),
                ..run(args.training, &args.records)?
            },
            events,
            threads: within("threads", args.threads.unwrap_or(available), 1, 1024)?,
        })
    }

    /// Precision of the frozen weights.
    pub fn weights(&self) -> WeightPrecision {
        match (self.method, self.quant_type) {
            (Method::Lora | Method::Full | Method::Houlsby | Method::Pfeiffer, _) => WeightPrecision::Stored,
            (Method::Qlora, QuantType::Q4) => WeightPrecision::Four,
            (Method::Qlora, QuantType::Nf4) => WeightPrecision::Nf4,
        }
    }

    /// Whether other settings read the same rows as samples.
    pub fn has_rows_of(&self, other: &Self) -> bool {
        let of = |settings: &Self| {
            let seed = settings.eval.is_none().then_some(settings.run.seed);
            let held_out = (
                settings.eval.clone(),
                settings.eval_share,
                seed,
                settings.report_samples,
            );
            let samples = (settings.template.clone(), settings.max_length, settings.packing);
            (
                settings.model.path.clone(),
                settings.rows.clone(),
                settings.train.clone(),
                held_out,
                samples,
            )
        };
        of(self) == of(other)
    }

    /// Whether pairs begin as components of the weights; those of an adapter to go on from are plain.
    pub fn starts_from_components(&self) -> bool {
        self.adapter.is_none() && self.lora.initialisation != Initialisation::Default
    }

    /// Sequences are no longer than the model's; says so where that is shorter than what was asked for.
    pub fn keep_within(&mut self, context: usize) {
        if context < self.max_length {
            eprintln!(
                "--max-length: {context}, which is the model's longest, in place of {}",
                self.max_length
            );
            self.max_length = context;
        }
    }
}

/// The name of a folder that may not be there yet.
pub(super) fn last_name(folder: &Path) -> String {
    let absolute = folder.canonicalize().or_else(|_| std::path::absolute(folder));
    let name = absolute
        .ok()
        .and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "adapter".to_owned())
}

/// A model whose folder names classes of its own needs code that came with it: here it would be computed as something else.
fn has_no_code(model: &Path) -> Result<()> {
    let config = std::fs::read(model.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    match config.get("auto_map") {
        None => Ok(()),
        Some(classes) => Err(usage(format!(
            "--trust-remote-code: code that comes with a model is never run, and the config.json of {} has some in auto_map \
             ({classes})",
            model.display()
        ))),
    }
}

/// An existing file or folder of rows.
fn rows(path: Option<PathBuf>) -> Result<PathBuf> {
    let path = path.ok_or_else(|| usage("--data-name is missing: the file or folder of rows to train on"))?;
    if path.exists() {
        return Ok(path);
    }
    let shown = path.display();
    let name = path.to_string_lossy();
    let is_hub_name = !path.is_absolute() && name.matches('/').count() <= 1 && path.extension().is_none();
    Err(usage(match is_hub_name {
        true => format!(
            "--data-name: there is no file or folder {shown}. If it is a data set of the hub: those are not fetched here; download it \
             (`hf download --repo-type dataset {shown} --local-dir DIR`) and give DIR or one of its files"
        ),
        false => format!("--data-name: there is no file or folder {shown}"),
    }))
}

/// Fields of an adapter's configuration that decide what a run computes, and the settings that they come from.
const DECISIVE: [(&str, &str); 13] = [
    ("lora_r", "r"),
    ("lora_alpha", "lora_alpha"),
    ("lora_dropout", "lora_dropout"),
    ("target_modules", "target_modules"),
    ("exclude_modules", "exclude_modules"),
    ("layers_to_transform", "layers_to_transform"),
    ("rank_pattern", "rank_pattern"),
    ("alpha_pattern", "alpha_pattern"),
    ("modules_to_save", "modules_to_save"),
    ("bias", "bias"),
    ("use_rslora", "use_rslora"),
    ("use_dora", "use_dora"),
    ("model", "rootstock_base_hash"),
];

impl FinetuneSettings {
    /// Has a run that goes on compare what is trained, on what, and how it is computed, with the run that it goes on from.
    pub fn decide_by(&mut self, config: &Value) {
        let of_config = DECISIVE.map(|(setting, field)| (setting.to_owned(), config[field].clone()));
        let of_bottlenecks = config["config"].as_object().into_iter().flatten();
        let of_bottlenecks = of_bottlenecks.map(|(field, value)| (field.clone(), value.clone()));
        let own = [
            ("method", format!("{:?}", self.method)),
            ("quant_type", format!("{:?}", self.quant_type)),
            ("device", self.device.to_string()),
            ("precision", format!("{:?}", self.precision)),
            ("init_lora_weights", format!("{:?}", self.lora.initialisation)),
        ];
        let own = own.map(|(setting, value)| (setting.to_owned(), Value::String(value.to_lowercase())));
        self.run.decisive = of_config.into_iter().chain(of_bottlenecks).chain(own).collect();
    }
}

fn resume(from: Option<&str>) -> Option<Resume> {
    match from? {
        "false" => None,
        "true" => Some(Resume::Last),
        path => Some(Resume::From(path.into())),
    }
}

fn run(training: TrainingArgs, records: &RecordArgs) -> Result<RunSettings> {
    let name = &training.lr_scheduler_type;
    let schedule: ScheduleKind = name
        .parse()
        .map_err(|error| usage(format!("--lr-scheduler-type: {error}")))?;
    let options = training
        .lr_scheduler_kwargs
        .as_deref()
        .map(serde_json::from_str::<ScheduleOptions>);
    let options = options
        .transpose()
        .map_err(|error| usage(format!("--lr-scheduler-kwargs: {error}")))?;
    let settings = RunSettings {
        max_steps: training.max_steps,
        epochs: training.num_train_epochs,
        batch_size: training.per_device_train_batch_size,
        accumulation: training.gradient_accumulation_steps,
        learning_rate: training.learning_rate,
        schedule,
        schedule_options: options.unwrap_or_default(),
        warmup: match training.warmup_steps {
            0 => Warmup::Ratio(training.warmup_ratio),
            steps => Warmup::Steps(steps),
        },
        optimizer: AdamWSettings {
            beta1: training.adam_beta1,
            beta2: training.adam_beta2,
            eps: training.adam_epsilon,
            weight_decay: training.weight_decay,
            moments: match training.optim {
                Optimizer::AdamwTorch => MomentType::F32,
                Optimizer::Adamw8bit => MomentType::Blockwise8,
            },
        },
        lora_plus_ratio: training.loraplus_lr_ratio,
        max_grad_norm: training.max_grad_norm,
        seed: training.seed,
        eval_steps: records.eval_steps,
        eval_batch_size: training.per_device_eval_batch_size,
        save_steps: records.save_steps,
        save_total_limit: within("save-total-limit", records.save_total_limit, 1, 1 << 20)?,
        logging_steps: records.logging_steps,
        patience: records.early_stopping_patience,
        min_delta: records.early_stopping_threshold,
        memory_limit: None,
        decisive: serde_json::Map::new(),
    };
    settings.check().map_err(|error| usage(format!("--{error}")))?;
    Ok(settings)
}
