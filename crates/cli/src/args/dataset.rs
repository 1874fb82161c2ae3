//! Arguments of `data preview` and `data check`. Flags have the names that `finetune` gives them, and take underscores as well as
//! dashes, as in Olive's command lines.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Subcommand, ValueEnum};

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

/// Which rows, and how they become tokens.
#[derive(Debug, Clone, Args)]
pub struct RowsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// File of rows (.json, .jsonl, .csv, .parquet, .txt), or a folder of them whose names tell their split
    #[arg(long, value_name = "PATH")]
    pub data_name: PathBuf,
    /// Text made of columns, as in '### {question}\n{answer}', of which everything is learned [default: the columns tell what is]
    #[arg(long, value_name = "TEMPLATE")]
    pub text_template: Option<String>,
    /// Most tokens of a row [default: 1024, or the model's context]
    #[arg(long, alias = "max-seq-len", value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// What is cut of a prompt with its completion that are longer
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Truncate::PromptStart)]
    pub truncate: Truncate,
}

/// What is cut of a longer row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Truncate {
    /// The beginning of the prompt, so that the completion stays
    PromptStart,
    /// The end
    End,
}

/// Arguments of `data preview`.
#[derive(Debug, Clone, Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    pub rows_of: RowsArgs,
    /// Part of the data, as train[:10] or validation[5%:]
    #[arg(long, alias = "train-split", value_name = "SLICE", default_value = "train")]
    pub split: String,
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
    pub rows_of: RowsArgs,
    /// Part of the data to train on
    #[arg(long, alias = "split", value_name = "SLICE", default_value = "train")]
    pub train_split: String,
    /// Part of the data to evaluate on [default: held out of what is trained on]
    #[arg(long, value_name = "SLICE")]
    pub eval_split: Option<String>,
    /// Share of rows to hold out where --eval-split is not given
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub hold_out: f64,
    /// Seed of what is held out
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
