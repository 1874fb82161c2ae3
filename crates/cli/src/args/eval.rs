//! What can be typed after `eval`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use rootstock_train::dataset::Slice;

use super::RunArgs;
use crate::settings::Bound;

/// Arguments of `eval`.
#[derive(Debug, Clone, Args)]
pub struct EvalArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// GGUF file (any part of a split one), Hugging Face folder, or name of a pulled model (repeatable)
    #[arg(long, value_name = "PATH|NAME")]
    pub model: Vec<String>,
    /// Folder of pulled models [default: rootstock/models in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Catalog to use in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
    /// PEFT folder or GGUF file of an adapter to evaluate beside the base, or its name in the folder of --adapters
    /// (repeatable)
    #[arg(long, value_name = "DIR|NAME")]
    pub adapter: Vec<PathBuf>,
    /// Folder with a subfolder or GGUF file per adapter
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Leave the base out of the table
    #[arg(long)]
    pub adapters_only: bool,
    /// Rows to evaluate on: JSON, JSONL, CSV, Parquet, text, or a folder of them
    #[arg(long, value_name = "FILE")]
    pub data_name: Option<PathBuf>,
    /// Which of the rows
    #[arg(long, value_name = "SLICE", default_value = "train")]
    pub eval_split: Slice,
    /// Text with columns in braces, for rows of any columns
    #[arg(long, value_name = "TEMPLATE")]
    pub text_template: Option<String>,
    /// Cut longer examples to so many tokens [default: the longest sequence of the model]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// What to measure [default: perplexity; accuracy and f1 too where completions are labels]
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',')]
    pub metrics: Vec<Metric>,
    /// Completions to choose from [default: those of the rows, if there are few]
    #[arg(long, value_name = "TEXTS", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Most tokens to generate for a text that is compared with the completion
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Have rouge compare the stems of words
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub use_stemmer: bool,
    /// Exit with 1 if a metric is less than this (repeatable); with --adapter the base is only compared with
    #[arg(long, value_name = "METRIC=VALUE", value_delimiter = ',')]
    pub fail_below: Vec<Bound>,
    /// Exit with 1 if a metric is more than this (repeatable)
    #[arg(long, value_name = "METRIC=VALUE", value_delimiter = ',')]
    pub fail_above: Vec<Bound>,
    /// Print JSON in place of a table
    #[arg(long)]
    pub json: bool,
    /// Write the JSON to a file as well
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What `--metrics` names; some are several columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Of the completions, the assistant's turns, or whole texts
    Perplexity,
    /// Share of examples whose likeliest label is the right one
    Accuracy,
    /// Of the likeliest labels: macro and micro
    F1,
    /// Share of greedy generations that are the completion
    ExactMatch,
    /// Of greedy generations, as sacrebleu
    Bleu,
    /// Of greedy generations, as rouge-score: 1, 2 and L
    Rouge,
}
