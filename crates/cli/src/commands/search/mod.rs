//! `rootstock search`: trials of `finetune` with different settings on one loaded base. What is tried is decided by
//! `rootstock_train::search`; what is written, and what is left of a trial, is in [`folder`].

mod folder;

use anyhow::{Context, Result, anyhow};
use rootstock_report::quantity::significant;
use rootstock_train::TrainError;
use rootstock_train::report::Sample;
use rootstock_train::search::{Reports, Search, State, Trial, TrialEnd};
use serde_json::json;

use self::folder::Folder;
use super::eval;
use super::finetune::{Loaded, Run, answers};
use crate::args::SearchArgs;
use crate::settings::{FinetuneSettings, Objective, SearchSettings, measured};

/// Runs the trials that are left, and leaves the best adapter in the output folder.
///
/// # Errors
/// Settings that cannot be used, files that cannot be written, or no trial that came to its end.
pub fn run(args: SearchArgs) -> Result<()> {
    let (json, dry_run) = (args.finetune.json, args.finetune.dry_run);
    let settings = SearchSettings::new(args)?;
    let mut loaded = Loaded::for_runs(&settings.trials);
    if dry_run {
        return plan(&settings, &mut loaded, json);
    }
    let folder = Folder::open(&settings)?;
    let mut search = Search::open(&folder.trials_file(), &settings.space, settings.search)?;
    folder.settle(&search)?;
    let complete = search.run(
        |number, _, reports| trial(number, &settings, &mut loaded, reports),
        |search| {
            announce(search);
            folder.settle(search)
        },
    )?;
    let samples = match complete {
        true => samples(&settings, &search, loaded)?,
        false => Vec::new(),
    };
    folder.write_page(&search, &samples)?;
    match json {
        true => println!("{}", result(&settings, &search, complete)),
        false => print!("{}", search.table()),
    }
    verdict(&search, complete)
}

fn trial(number: usize, settings: &SearchSettings, loaded: &mut Loaded, reports: &mut Reports<'_>) -> TrialEnd {
    if loaded.is_interrupted() {
        return TrialEnd::Interrupted;
    }
    eprintln!("trial {number}: {}", reports.parameters());
    let mut judge = |step, loss| reports.report(step, loss);
    match loaded.train(settings.trials[number].clone(), Some(&mut judge)) {
        Err(error) => TrialEnd::Failed(format!("{error:#}")),
        Ok(run) if run.outcome.ending == "interrupted" => TrialEnd::Interrupted,
        Ok(run) => match value(&run, settings.metric) {
            Ok(value) => TrialEnd::Value(value),
            Err(error) => TrialEnd::Failed(format!("{error:#}")),
        },
    }
}

/// What the trial is compared by.
fn value(run: &Run, metric: Objective) -> Result<f64> {
    let trained = run.output.settings();
    match (metric, &trained.eval) {
        (Objective::Measured(measure), Some(held_out)) => {
            eval::value(&measured(trained, held_out, (run.output.dir(), measure))?, measure)
        }
        _ => run.outcome.eval_loss.context("nothing was held out to compare it by"),
    }
}

/// Says what came of the trial that has ended, and which is the best so far.
fn announce(search: &Search) {
    let Some(trial) = search.last() else { return };
    let came = match (trial.state, &trial.error, trial.result) {
        (_, Some(error), _) => format!("failed: {error}"),
        (State::Pruned, ..) => "pruned".to_owned(),
        (.., Some(result)) => significant(result),
        (.., None) => "no number".to_owned(),
    };
    let best = |best: &Trial| {
        Some(format!(
            "; best so far: trial {}, {}",
            best.trial,
            significant(best.result?)
        ))
    };
    let best = search.best().and_then(best).unwrap_or_default();
    eprintln!("trial {} of {}: {came}{best}", trial.trial, search.planned());
}

/// What the base and the best adapter answer to rows that were held out.
fn samples(settings: &SearchSettings, search: &Search, loaded: Loaded) -> Result<Vec<Sample>> {
    let Some(best) = search.best() else {
        return Ok(Vec::new());
    };
    let best = FinetuneSettings {
        output: settings.output.clone(),
        ..settings.trials[best.trial].clone()
    };
    let prompts = loaded.into_prompts(&best)?;
    Ok(answers(&best, &prompts, &mut Vec::new()))
}

fn result(settings: &SearchSettings, search: &Search, complete: bool) -> serde_json::Value {
    let mut object = search.json();
    object["complete"] = json!(complete);
    object["metric"] = json!(settings.metric.to_string());
    object["output"] = json!(settings.output.display().to_string());
    object
}

/// What a trial takes, of which there are so many.
fn plan(settings: &SearchSettings, loaded: &mut Loaded, json: bool) -> Result<()> {
    let trials = settings.trials.len();
    let first = settings
        .trials
        .first()
        .ok_or_else(|| anyhow!("the search has no trials"))?;
    let plan = loaded.plan(first.clone())?;
    match json {
        true => println!("{}", json!({"trials": trials, "first": plan.json()?})),
        false => {
            println!("{:<16} {trials}, of which the first takes", "trials");
            plan.print();
        }
    }
    Ok(())
}

fn verdict(search: &Search, complete: bool) -> Result<()> {
    let failed = search.trials().iter().find_map(|trial| trial.error.as_deref());
    match (search.best(), failed) {
        (None, Some(error)) if complete => Err(anyhow!("no trial was finished; the first said: {error}")),
        (None, None) if complete => Err(anyhow!("no trial came to a number")),
        _ => Ok(()),
    }
}

/// A trial's files cannot be written: the search ends there.
fn io(path: &std::path::Path, source: std::io::Error) -> TrainError {
    TrainError::Io {
        file: path.display().to_string(),
        source,
    }
}
