//! What can be typed after `merge`, `extract` and `convert-adapter`, which make files of files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, SaveDtype};

/// Where the result goes.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Folder that is written; a model may be a file, whose name ends in .gguf
    #[arg(long, short = 'o', value_name = "DIR|FILE", alias = "output-path")]
    pub output: Option<PathBuf>,
    /// Replace an earlier result that is there
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `merge`.
#[derive(Debug, Clone, Args)]
pub struct MergeArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Adapter and the factor on what it adds, 1 if none is given (repeatable): PEFT folder, GGUF file, or its name in the folder
    /// of --adapters
    #[arg(long, value_name = "DIR|NAME[=WEIGHT]")]
    pub adapter: Vec<String>,
    /// Folder with a subfolder or GGUF file per adapter
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// How several adapters become one change
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = BlendMethod::Linear, alias = "combination-type")]
    pub method: BlendMethod,
    /// Share of the values of a change that ties and dare keep
    #[arg(long, value_name = "SHARE")]
    pub density: Option<f64>,
    /// Of what dare keeps
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Element type of a folder's weights [default: f32]
    #[arg(long, value_name = "TYPE", value_enum, alias = "save-dtype")]
    pub dtype: Option<SaveDtype>,
    /// Type of a GGUF file's weights, as `quantize` takes it: q8_0, q4_k_m, f16, ...; needs an --output that ends in .gguf
    #[arg(long = "type", value_name = "TYPE")]
    pub recipe: Option<String>,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print what was done as JSON, tensor by tensor
    #[arg(long)]
    pub json: bool,
}

/// How several adapters become one change; names and meanings are peft's, on whole changes in place of their factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BlendMethod {
    /// The weighted sum
    Linear,
    /// The largest values of each, where they agree in sign
    Ties,
    /// Random values of each, scaled up, in a weighted sum
    #[value(alias = "dare", alias = "dare_linear")]
    DareLinear,
    /// Random values of each, scaled up, where they agree in sign
    #[value(alias = "dare_ties")]
    DareTies,
}

/// Arguments of `extract`.
#[derive(Debug, Clone, Args)]
pub struct ExtractArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The model to be told from --model: GGUF file, Hugging Face folder, or name of a pulled model
    #[arg(long, value_name = "PATH|NAME")]
    pub tuned: Option<String>,
    /// Rank of the pairs
    #[arg(long, value_name = "RANK", default_value_t = 16, aliases = ["lora-r", "r"])]
    pub rank: usize,
    /// Maps that get a pair, by name or the end of their path [default: all of the layers]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 1..)]
    pub target_modules: Vec<String>,
    /// Keep what no pair can hold (embedding, output layer, normalisations, biases) whole in the adapter; otherwise it is told
    /// and left out
    #[arg(long)]
    pub save_rest: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print what was done as JSON, module by module
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `convert-adapter`.
#[derive(Debug, Clone, Args)]
pub struct ConvertAdapterArgs {
    /// PEFT folder, or GGUF file
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// GGUF file, or PEFT folder: the other of the two
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// What a GGUF file's tensors are stored in [default: f32]
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    pub stored: Option<StoredType>,
    /// Replace OUT where it holds an earlier result
    #[arg(long)]
    pub overwrite: bool,
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// What a GGUF adapter's tensors are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoredType {
    /// IEEE single
    F32,
    /// IEEE half
    F16,
    /// Upper half of f32
    Bf16,
    /// 8 bits and a scale per 32 values; f16 where the rows are no multiple of 32
    #[value(name = "q8_0")]
    Q8_0,
}
