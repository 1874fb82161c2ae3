//! What can be typed after `search`: all that `finetune` takes, and how settings are chosen. What is searched over is in the
//! settings file.

use clap::{ArgAction, Args, ValueEnum};

use super::{FinetuneArgs, Space};
use crate::settings::Objective;

/// Arguments of `search`.
#[derive(Debug, Clone, Args)]
pub struct SearchArgs {
    #[command(flatten)]
    pub finetune: FinetuneArgs,
    /// How points of the search space are chosen
    #[arg(long, value_name = "NAME", value_enum, default_value_t = StrategyName::Random, help_heading = "Search")]
    pub strategy: StrategyName,
    /// How many points a random search tries; a search that is run again with more of them goes on
    #[arg(long, value_name = "N", default_value_t = 20, help_heading = "Search")]
    pub trials: usize,
    /// Of the points that are drawn
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Search")]
    pub search_seed: u64,
    /// What trials are compared by: eval-loss, or a metric of `eval` (perplexity, accuracy, macro-f1, bleu, ...) on the rows of
    /// --eval-split, for which the base is loaded once more
    #[arg(long, value_name = "NAME", default_value_t = Objective::EvalLoss, help_heading = "Search")]
    pub metric: Objective,
    /// End trials whose loss on held-out rows is above the median of the others' at the same step; needs --eval-steps
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set, help_heading = "Search")]
    pub pruning: bool,
    /// Finished trials before any is pruned
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Search")]
    pub pruning_warmup_trials: usize,
    /// Steps at the beginning of a trial at which it is not pruned
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Search")]
    pub pruning_warmup_steps: u64,
    /// From the settings file.
    #[arg(skip)]
    pub space: Option<Space>,
}

/// How points are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// At random, none twice
    Random,
    /// All of them
    Grid,
}
