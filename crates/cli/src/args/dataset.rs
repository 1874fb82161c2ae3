//! What can be typed after `data preview` and `data check`: flags have the names and meanings that `finetune` gives them.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Subcommand, ValueEnum};
use rootstock_train::dataset::Slice;

use super::ModelArgs;

/// What to do with data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Print rows as the tokens a model is trained on, what is learned marked
    #[command(after_help = "\
Examples:
  rootstock data preview --model smollm2-135m-instruct --data_name mails.jsonl --rows 3
  rootstock data preview --model smollm2-135m-instruct --data-name faq.csv --text-template '### {question}\\n{answer}' --ids

Learned tokens are bold and green, or in \u{27e6}brackets\u{27e7} without colours (NO_COLOR is heeded). \u{21b5} is a line break in the text.")]
    Preview(PreviewArgs),
    /// Report what is wrong with data: unreadable rows, leakage, duplicates, cut rows, missing ends, labels
    #[command(after_help = "\
Examples:
  rootstock data check --model smollm2-135m-instruct --data_name mails.jsonl --max_length 256
  rootstock data check --model smollm2-135m-instruct --data-name mails.csv --train-split 'train[:900]' --eval-split 'train[900:]' --json

Exit codes: 0 nothing is wrong or only warnings, 1 unreadable rows or leakage between the splits, 2 wrong usage.")]
    Check(CheckArgs),
}

/// Where rows are, and how they become tokens.
#[derive(Debug, Clone, Args)]
pub struct RowsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows: JSON, JSONL, CSV, Parquet, text, or a folder of them whose names tell their split
    #[arg(long, value_name = "FILE", alias = "data-files")]
    pub data_name: PathBuf,
    /// Text with columns in braces, for rows of any columns; everything of it is learned
    #[arg(long, value_name = "TEMPLATE")]
    pub text_template: Option<String>,
    /// Longest sequence in tokens [default: 1024, or the model's context]
    #[arg(long, value_name = "TOKENS", aliases = ["max-seq-length", "source-max-len", "max-seq-len"])]
    pub max_length: Option<usize>,
    /// What is cut of a prompt with its completion that are longer
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Truncate::PromptStart)]
    pub truncate: Truncate,
}

/// What is cut of a longer row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Truncate {
    /// The beginning of the prompt, so that the completion stays; finetune does so
    PromptStart,
    /// The end
    End,
}

/// Arguments of `data preview`.
#[derive(Debug, Clone, Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    pub source: RowsArgs,
    /// Which rows, as `train[:10]` or `validation[5%:]`
    #[arg(long, value_name = "SLICE", default_value = "train", alias = "train-split")]
    pub split: Slice,
    /// Most rows to print
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
    /// Colours: auto has them on a terminal
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Print every token on a line of its own, with its id
    #[arg(long)]
    pub ids: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub source: RowsArgs,
    /// Which rows are trained on
    #[arg(long, value_name = "SLICE", default_value = "train", alias = "split")]
    pub train_split: Slice,
    /// Which rows are held out [default: a share of those trained on]
    #[arg(long, value_name = "SLICE")]
    pub eval_split: Option<Slice>,
    /// Share of the rows that is held out where no --eval-split is given; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub eval_share: f64,
    /// Of what is held out
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Most lines for each kind of finding
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub lines: usize,
    /// Threads that put rows into tokens [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print one JSON object with every finding
    #[arg(long)]
    pub json: bool,
}
