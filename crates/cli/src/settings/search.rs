//! What `search` runs with: the space, and the settings of every trial, checked before the first begins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rootstock_train::search::{self, Direction, MedianPruning, Parameters, SearchSpace, Strategy};

use super::finetune::last_name;
use super::{FinetuneSettings, Objective, Result, usage};
use crate::args::{SearchArgs, Space, StrategyName};

/// What `search` runs with.
#[derive(Debug, Clone)]
pub struct SearchSettings {
    /// Where trials go, and the best adapter.
    pub output: PathBuf,
    /// What is in it may be another search, which is lost then.
    pub overwrite: bool,
    /// What trials are compared by.
    pub metric: Objective,
    /// What is searched over.
    pub space: SearchSpace,
    /// How.
    pub search: search::SearchSettings,
    /// By number.
    pub trials: Vec<FinetuneSettings>,
    /// Settings that all trials have, by the names of flags.
    pub fixed: BTreeMap<String, String>,
}

impl SearchSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// What is missing or out of range, a space that is none, or a point of it that no run can have.
    pub fn new(args: SearchArgs) -> Result<Self> {
        let missing = "search: give a settings file with a table [search_space.OPTION] for each option to search over, as --config";
        let given = args.space.as_ref().filter(|given| !given.dimensions.is_empty());
        let given = given.ok_or_else(|| usage(missing))?;
        let output = args.finetune.output.clone();
        let output = output.ok_or_else(|| {
            usage("--output is missing: the folder that the trials and the best adapter are written to")
        })?;
        check(&args)?;
        let space = SearchSpace::new(given.dimensions.clone())?;
        let strategy = match args.strategy {
            StrategyName::Random => Strategy::Random {
                trials: args.trials,
                seed: args.search_seed,
            },
            StrategyName::Grid => Strategy::Grid,
        };
        let points = search::points(&space, strategy)?;
        let trials = points.iter().enumerate();
        let trials = trials.map(|(number, point)| trial(given, number, point, &output));
        Ok(Self {
            trials: trials.collect::<Result<_>>()?,
            metric: args.metric,
            search: search::SearchSettings {
                strategy,
                direction: match args.metric.better_when_lower() {
                    true => Direction::Minimize,
                    false => Direction::Maximize,
                },
                pruning: args.pruning.then_some(MedianPruning {
                    warmup_trials: args.pruning_warmup_trials,
                    warmup_steps: args.pruning_warmup_steps,
                }),
            },
            overwrite: args.finetune.overwrite,
            fixed: given.fixed.clone(),
            space,
            output,
        })
    }
}

/// What does not go together.
fn check(args: &SearchArgs) -> Result<()> {
    let (data, records) = (&args.finetune.data, &args.finetune.records);
    if args.trials == 0 {
        return Err(usage("--trials: expected a positive number, got 0"));
    }
    if data.eval_split.is_none() && data.eval_share == 0.0 {
        return Err(usage(
            "--eval-share: nothing is held out, and trials are compared by that; take a share or an --eval-split",
        ));
    }
    if args.pruning && records.eval_steps == 0 {
        return Err(usage(
            "--pruning: trials are judged by evaluations on their way; set --eval-steps",
        ));
    }
    if let Objective::Measured(measure) = args.metric {
        let metric = measure.name();
        if args.pruning {
            return Err(usage(format!(
                "--pruning: trials are judged by their loss on the way, and compared by {metric}; take one"
            )));
        }
        if data.eval_split.is_none() {
            return Err(usage(format!(
                "--metric {metric}: it is measured on the rows of --eval-split, which is missing"
            )));
        }
    }
    match records.resume_from_checkpoint.as_deref() {
        None | Some("true" | "false") => Ok(()),
        Some(_) => Err(usage(
            "--resume-from-checkpoint: a search goes on by itself, each trial from its own checkpoint; leave it out",
        )),
    }
}

/// The folder of a trial.
pub fn trial_folder(output: &Path, number: usize) -> PathBuf {
    output.join("trials").join(format!("{number:04}"))
}

/// The settings of a trial: what the file has, with the point's values, in a folder of its own.
fn trial(space: &Space, number: usize, point: &Parameters, output: &Path) -> Result<FinetuneSettings> {
    let shown = || format!("trial {number}, {}", serde_json::json!(point));
    let args = space.at(point).map_err(|error| {
        let reason = error.to_string();
        usage(format!(
            "{}: {}",
            shown(),
            reason.trim_start_matches("error: ").trim_end()
        ))
    });
    let mut args = args?;
    let folder = trial_folder(output, number);
    let name = last_name(&folder);
    args.records.logging_dir = args.records.logging_dir.map(|dir| dir.join(&name));
    args.records.resume_from_checkpoint = Some("true".to_owned());
    args.output = Some(folder);
    let mut settings = FinetuneSettings::new(args).map_err(|error| error.context(shown()))?;
    settings.title = last_name(output);
    Ok(settings)
}
