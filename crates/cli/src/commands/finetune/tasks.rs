//! Several tasks of one settings file, one after another on one base: each has its own output, and one that fails leaves the others.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rootstock_report::quantity::{count, duration, significant};
use rootstock_report::table::aligned;
use serde_json::{Value, json};

use super::loaded::{Loaded, Run};
use super::output;
use crate::UsageError;
use crate::args::FinetuneArgs;
use crate::settings::{FinetuneSettings, Resume};

/// A task and what has come of it.
struct Task {
    name: String,
    settings: FinetuneSettings,
    state: State,
}

enum State {
    NotStarted,
    Ended(Box<Run>),
    Failed(String),
}

/// Trains all tasks, and says what came of each.
///
/// # Errors
/// Settings that cannot be used, before anything is trained; tasks that failed, after all are done.
pub fn run(args: FinetuneArgs) -> Result<()> {
    let (json, dry_run) = (args.json, args.dry_run);
    let mut tasks = read(args)?;
    let mut loaded = Loaded::for_runs(tasks.iter().map(|task| &task.settings));
    if dry_run {
        return plan(&tasks, &mut loaded, json);
    }
    let all = tasks.len();
    for (index, task) in tasks.iter_mut().enumerate() {
        if loaded.is_interrupted() {
            break;
        }
        eprintln!("task {} of {all}: {}", index + 1, task.name);
        task.state = match loaded.train(task.settings.clone(), None) {
            Ok(run) => State::Ended(Box::new(run)),
            Err(error) => failed(&task.name, &error),
        };
    }
    let interrupted = loaded.is_interrupted();
    drop(loaded);
    if !interrupted {
        tasks.iter_mut().for_each(Task::answer);
    }
    match json {
        true => println!("{}", json!({"tasks": tasks.iter().map(Task::json).collect::<Vec<_>>()})),
        false => print!("{}", table(&tasks)),
    }
    verdict(&tasks)
}

/// Settings of all tasks; outputs that can be written to, each for itself.
fn read(args: FinetuneArgs) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let mut outputs = BTreeSet::new();
    for task in args.tasks {
        let name = task.name;
        let settings = FinetuneSettings::new(task.args).map_err(|error| error.context(format!("task {name}")))?;
        output::check(&settings)?;
        if matches!(settings.resume, Some(Resume::From(_))) {
            let reason =
                "--resume-from-checkpoint: a checkpoint is of one task; give no folder, and each goes on from its own";
            return Err(UsageError(reason.to_owned()).into());
        }
        if !outputs.insert(settings.output.clone()) {
            let shown = settings.output.display();
            return Err(UsageError(format!("task {name}: --output {shown} is that of another task")).into());
        }
        tasks.push(Task {
            name,
            settings,
            state: State::NotStarted,
        });
    }
    Ok(tasks)
}

fn plan(tasks: &[Task], loaded: &mut Loaded, json: bool) -> Result<()> {
    let mut plans = Vec::new();
    for task in tasks {
        let plan = loaded.plan(task.settings.clone());
        let plan = plan.map_err(|error| error.context(format!("task {}", task.name)))?;
        match json {
            true => plans.push(json!({"name": task.name, "plan": plan.json()?})),
            false => {
                println!("{}", task.name);
                plan.print();
            }
        }
    }
    if json {
        println!("{}", json!({"tasks": plans}));
    }
    Ok(())
}

fn failed(name: &str, error: &anyhow::Error) -> State {
    eprintln!("task {name} failed: {error:#}");
    State::Failed(format!("{error:#}"))
}

impl Task {
    fn answer(&mut self) {
        if let State::Ended(run) = &mut self.state
            && let Err(error) = run.answer()
        {
            self.state = failed(&self.name, &error);
        }
    }

    fn state(&self) -> &str {
        match &self.state {
            State::NotStarted => "not started",
            State::Ended(run) => &run.outcome.ending,
            State::Failed(_) => "failed",
        }
    }

    fn json(&self) -> Value {
        let mut object = json!({"name": self.name, "state": self.state()});
        match &self.state {
            State::NotStarted => {}
            State::Ended(run) => object["result"] = json!(run.outcome),
            State::Failed(error) => object["error"] = json!(error),
        }
        object
    }

    fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.clone(), self.state().to_owned()];
        match &self.state {
            State::NotStarted => {}
            State::Ended(run) => {
                let outcome = &run.outcome;
                let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), significant);
                let time = Duration::try_from_secs_f64(outcome.runtime).unwrap_or_default();
                row.extend([count(outcome.steps), loss(outcome.loss), loss(outcome.eval_loss)]);
                row.extend([duration(time), outcome.output.clone()]);
            }
            State::Failed(error) => row.push(error.replace(char::is_control, " ")),
        }
        row
    }
}

fn table(tasks: &[Task]) -> String {
    let header = ["task", "state", "steps", "loss", "eval loss", "time", "output"];
    let header = header.map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(header).chain(tasks.iter().map(Task::row)).collect();
    aligned(&rows)
}

/// Succeeds if none has failed.
fn verdict(tasks: &[Task]) -> Result<()> {
    let failed = tasks.iter().filter(|task| matches!(task.state, State::Failed(_)));
    let failed: Vec<&str> = failed.map(|task| task.name.as_str()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(anyhow!(
            "{} of {} tasks failed: {}",
            failed.len(),
            tasks.len(),
            failed.join(", ")
        )),
    }
}
