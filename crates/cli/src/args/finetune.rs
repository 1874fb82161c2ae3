//! What can be typed after `finetune`: names and meanings are those of Hugging Face's `TrainingArguments`, peft's `LoraConfig`
//! and Olive's `finetune`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use rootstock_train::adapter::Initialisation;
use rootstock_train::dataset::Slice;

use super::{Device, Task};
use crate::settings::ByteSize;

/// Arguments of `finetune`.
#[derive(Debug, Clone, Args)]
pub struct FinetuneArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// GGUF file, Hugging Face folder, or name of a pulled model
    #[arg(long, short = 'm', value_name = "PATH|NAME", aliases = ["model-name-or-path", "model-path"])]
    pub model: Option<String>,
    /// Folder of pulled models [default: rootstock/models in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Catalog to use in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// Folder that the adapter is written to, or the model below it
    #[arg(long, short = 'o', value_name = "DIR", alias = "output-path")]
    pub output: Option<PathBuf>,
    /// Begin anew in a folder that has something in it
    #[arg(long)]
    pub overwrite: bool,
    /// What is trained
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = Method::Lora)]
    pub method: Method,
    /// What qlora rounds weights to
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = QuantType::Q4, alias = "bnb-4bit-quant-type")]
    pub quant_type: QuantType,
    /// Element type of the weights that --method full writes
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = SaveDtype::Bf16)]
    pub save_dtype: SaveDtype,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub adapter: AdapterArgs,
    #[command(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    pub records: RecordArgs,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Most memory that the run may take; where a batch needs more, fewer rows are computed at a time [default: what the machine
    /// and its control group have left]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
    /// Code that comes with a model is never run; true is refused where there is some
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub trust_remote_code: bool,
    /// Accepted for Olive's command lines; adapters are for generating text whatever it says
    #[arg(long, value_name = "NAME")]
    pub task_name: Option<String>,
    /// Accepted for Olive's command lines; ROOTSTOCK_LOG sets the log level
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Say what would be done, with its time, memory and disk, and end
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// From the settings file: runs in place of this one.
    #[arg(skip)]
    pub tasks: Vec<Task>,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Low-rank pairs beside the weights as they are stored
    Lora,
    /// Low-rank pairs beside weights in 4 bits (--quant-type)
    Qlora,
    /// Every weight, in f32; what is written is a model of its own
    Full,
    /// Bottlenecks after attention and feed-forward (Houlsby et al., 2019), for AdapterHub's library
    Houlsby,
    /// Bottlenecks after the feed-forward (Pfeiffer et al., 2020), for AdapterHub's library
    Pfeiffer,
}

/// Element types of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaveDtype {
    /// Upper half of f32
    #[value(alias = "bfloat16")]
    Bf16,
    /// IEEE half
    #[value(alias = "float16")]
    F16,
    /// IEEE single: as they are computed
    #[value(alias = "float32")]
    F32,
}

/// 4 bits of frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantType {
    /// Blocks of 32 with scale and minimum, as `--quantize 4` serves them; weights that are quantized already stay as they are
    Q4,
    /// NF4 with double quantization, as bitsandbytes has it and `--quantize nf4` serves it
    Nf4,
}

/// What is learned.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Rows to train on: JSON, JSONL, CSV, Parquet, text, or a folder of them
    #[arg(long, value_name = "FILE", alias = "data-files")]
    pub data_name: Option<PathBuf>,
    /// Text with columns in braces, for rows of any columns
    #[arg(long, value_name = "TEMPLATE")]
    pub text_template: Option<String>,
    /// Which rows are trained on
    #[arg(long, value_name = "SLICE", default_value = "train")]
    pub train_split: Slice,
    /// Which rows are held out [default: a share of those trained on]
    #[arg(long, value_name = "SLICE")]
    pub eval_split: Option<Slice>,
    /// Share of the rows that is held out where no --eval-split is given; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub eval_share: f64,
    /// Longest sequence in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, aliases = ["max-seq-length", "source-max-len", "max-seq-len"])]
    pub max_length: usize,
    /// Put short samples side by side, up to the longest length; texts are cut into full rows
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub packing: bool,
}

/// What the adapter is made of.
#[derive(Debug, Clone, Args)]
pub struct AdapterArgs {
    /// Rank
    #[arg(long, value_name = "RANK", default_value_t = 8, aliases = ["r", "rank"])]
    pub lora_r: usize,
    /// The pair's factor is this by the rank
    #[arg(long, value_name = "ALPHA", default_value_t = 16.0, alias = "alpha")]
    pub lora_alpha: f64,
    /// Share of a pair's inputs that is dropped
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub lora_dropout: f32,
    /// Modules by name, one regular expression, or all-linear
    #[arg(long, value_name = "NAMES", num_args = 1.., value_delimiter = ',', default_value = "all-linear")]
    pub target_modules: Vec<String>,
    /// Modules that get no pair
    #[arg(long, value_name = "NAMES", num_args = 1.., value_delimiter = ',')]
    pub exclude_modules: Vec<String>,
    /// Layers by index [default: all]
    #[arg(long, value_name = "LAYERS", num_args = 1.., value_delimiter = ',')]
    pub layers_to_transform: Vec<usize>,
    /// Rank of some modules, as in down_proj=16 (repeatable)
    #[arg(long, value_name = "PATTERN=RANK", value_parser = pair::<usize>, value_delimiter = ',')]
    pub rank_pattern: Vec<(String, usize)>,
    /// Alpha of some modules, as in down_proj=32 (repeatable)
    #[arg(long, value_name = "PATTERN=ALPHA", value_parser = pair::<f64>, value_delimiter = ',')]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules trained whole beside the pairs
    #[arg(long, value_name = "NAMES", num_args = 1.., value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Biases that are trained
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Biases::None)]
    pub bias: Biases,
    /// Factor alpha / sqrt(rank) in place of alpha / rank (rsLoRA)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub use_rslora: bool,
    /// Train the length of every output's weights apart (DoRA)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub use_dora: bool,
    /// What pairs begin as: true for no effect, pissa for their weights' largest singular components, pissa_niter_N for those after
    /// N iterations
    #[arg(long, value_name = "INIT", default_value = "true", value_parser = initialisation)]
    pub init_lora_weights: Initialisation,
    /// How much narrower than the model a bottleneck is [default: 16]
    #[arg(long, value_name = "X")]
    pub reduction_factor: Option<f64>,
    /// Function within a bottleneck: relu, swish, gelu_new [default: houlsby swish, pfeiffer relu]
    #[arg(long, value_name = "NAME")]
    pub non_linearity: Option<String>,
    /// Layers without bottlenecks, by index
    #[arg(long, value_name = "LAYERS", num_args = 1.., value_delimiter = ',')]
    pub leave_out: Vec<usize>,
    /// Go on from this adapter, whose configuration then decides
    #[arg(long, value_name = "DIR", alias = "adapter-path")]
    pub adapter: Option<PathBuf>,
}

/// Which biases are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Biases {
    /// None
    None,
    /// Those of modules with a pair
    #[value(name = "lora_only")]
    LoraOnly,
    /// All
    All,
}

/// How it is trained.
#[derive(Debug, Clone, Args)]
pub struct TrainingArgs {
    /// Optimizer steps [default: by --num-train-epochs]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// Passes over the rows
    #[arg(long, value_name = "X", default_value_t = 3.0, alias = "epochs")]
    pub num_train_epochs: f64,
    /// Rows computed at a time
    #[arg(long, value_name = "N", default_value_t = 8, aliases = ["batch-size", "train-batch-size"])]
    pub per_device_train_batch_size: usize,
    /// Rows evaluated at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub per_device_eval_batch_size: usize,
    /// Batches to an optimizer step; their losses are weighed by tokens
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub gradient_accumulation_steps: usize,
    /// Keep only what enters each layer and compute the rest twice: less memory, more time [default: true with --method qlora]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub gradient_checkpointing: Option<bool>,
    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 2e-4)]
    pub learning_rate: f64,
    /// Curve of the learning rate
    #[arg(long, value_name = "NAME", default_value = "linear")]
    pub lr_scheduler_type: String,
    /// Options of the curve as JSON, as in {"num_cycles": 0.5}
    #[arg(long, value_name = "JSON")]
    pub lr_scheduler_kwargs: Option<String>,
    /// Steps over which the learning rate climbs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_steps: u64,
    /// Share of the steps over which it climbs, where --warmup-steps is 0
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub warmup_ratio: f64,
    /// AdamW with its state in 32 or in 8 bits
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Optimizer::AdamwTorch)]
    pub optim: Optimizer,
    /// Pull towards zero, of matrices only
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Decay of the mean of gradients
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    pub adam_beta1: f64,
    /// Decay of the mean of their squares
    #[arg(long, value_name = "X", default_value_t = 0.999)]
    pub adam_beta2: f64,
    /// Added to the root of the mean of squares
    #[arg(long, value_name = "X", default_value_t = 1e-8)]
    pub adam_epsilon: f64,
    /// Learning rate of B as a multiple of A's (LoRA+)
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub loraplus_lr_ratio: f64,
    /// Longest gradient of a step; 0 does not clip
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub max_grad_norm: f64,
    /// Where steps are computed: `cpu` on Rootstock's own kernels; `candle-cpu`, `cuda[:N]` and `metal[:N]` on candle's, in binaries
    /// that were built with these features
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Of products with frozen weights. `auto` is bf16 where the CPU multiplies it and on cuda, else f32
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Precision::Auto, alias = "torch-dtype")]
    pub precision: Precision,
    /// Of everything random
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

/// Optimizers by Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Optimizer {
    /// State in f32
    #[value(name = "adamw_torch", aliases = ["adamw", "adamw_hf", "adamw_torch_fused"])]
    AdamwTorch,
    /// State in 8 bits
    #[value(name = "adamw_8bit", aliases = ["adamw_bnb_8bit", "paged_adamw_8bit"])]
    Adamw8bit,
}

/// Precisions of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// What is fastest on this CPU
    Auto,
    /// f32 throughout
    #[value(alias = "float32")]
    F32,
    /// Operands in bfloat16, sums, trained tensors and their moments in f32
    #[value(alias = "bfloat16")]
    Bf16,
    /// The same in float16, with losses scaled to its range; refused on our own kernels, which gain nothing from it
    #[value(alias = "float16")]
    Fp16,
    /// Refused: no CPU or device here multiplies it
    #[value(aliases = ["float8", "fp8_e4m3"])]
    Fp8,
}

/// What is written down.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// Steps between records
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub logging_steps: u64,
    /// Steps between evaluations [default: at the end alone]
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub eval_steps: u64,
    /// Steps between checkpoints [default: none]
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub save_steps: u64,
    /// Checkpoints that are kept
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub save_total_limit: usize,
    /// Folder of TensorBoard's events [default: runs in the output folder]
    #[arg(long, value_name = "DIR")]
    pub logging_dir: Option<PathBuf>,
    /// `tensorboard` writes its events, `none` does not
    #[arg(long, value_name = "NAME", value_enum, default_value_t = ReportTo::None)]
    pub report_to: ReportTo,
    /// End after so many evaluations without a gain, with the best weights
    #[arg(long, value_name = "N")]
    pub early_stopping_patience: Option<u32>,
    /// Rows held out that base and adapter answer in the report; 0 for none
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub report_samples: usize,
    /// What counts as a gain
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub early_stopping_threshold: f64,
    /// Go on from the last checkpoint of the output folder, or from this one
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "true")]
    pub resume_from_checkpoint: Option<String>,
}

/// Where records go beside metrics.jsonl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportTo {
    /// Nowhere
    None,
    /// TensorBoard's event files
    #[value(alias = "all")]
    Tensorboard,
}

/// peft's `init_lora_weights`, as far as it is known here.
fn initialisation(text: &str) -> Result<Initialisation, String> {
    let iterations = text.strip_prefix("pissa_niter_").map(str::parse);
    match (text, iterations) {
        ("true" | "default", _) => Ok(Initialisation::Default),
        ("pissa", _) => Ok(Initialisation::Pissa { iterations: None }),
        (_, Some(Ok(iterations))) => Ok(Initialisation::Pissa {
            iterations: Some(iterations),
        }),
        _ => Err(format!("expected true, pissa or pissa_niter_N, got {text:?}")),
    }
}

/// `NAME=VALUE`
fn pair<T: std::str::FromStr>(text: &str) -> Result<(String, T), String> {
    let parsed = text
        .rsplit_once('=')
        .and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    parsed.ok_or_else(|| format!("expected PATTERN=NUMBER, got {text:?}"))
}
