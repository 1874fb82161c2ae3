//! `rootstock finetune`: from a file of rows to an adapter, or from several to several ([`tasks`]). Rows become samples in [`rows`];
//! [`loaded`] trains, one run after another on one base; [`plan`] says what a run will take; what is told and written while it goes
//! on is in [`watch`] and [`interrupt`]; what came of it in [`outcome`], its files in [`output`], with the answers of [`samples`] and
//! the model [`card`].

mod card;
mod engine;
mod interrupt;
mod loaded;
mod outcome;
mod output;
mod plan;
mod rows;
mod samples;
mod tasks;
mod watch;

use anyhow::Result;

pub use loaded::{Loaded, Run};
pub use samples::answers;

use crate::args::FinetuneArgs;
use crate::settings::FinetuneSettings;

/// Trains an adapter and writes it; with tasks, several.
///
/// # Errors
/// Settings, model, rows or a checkpoint that cannot be used, too little memory or disk, or files that cannot be written.
pub fn run(args: FinetuneArgs) -> Result<()> {
    if !args.tasks.is_empty() {
        return tasks::run(args);
    }
    let (json, dry_run) = (args.json, args.dry_run);
    let settings = FinetuneSettings::new(args)?;
    output::check(&settings)?;
    let mut loaded = Loaded::for_runs([&settings]);
    if dry_run {
        let plan = loaded.plan(settings)?;
        match json {
            true => println!("{}", plan.json()?),
            false => plan.print(),
        }
        return Ok(());
    }
    let mut run = loaded.train(settings, None)?;
    drop(loaded);
    run.answer()?;
    match json {
        true => println!("{}", serde_json::to_string(&run.outcome)?),
        false => println!("{}", run.output.dir().display()),
    }
    Ok(())
}
