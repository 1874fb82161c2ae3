//! `rootstock finetune`: from a file of rows to an adapter. Rows become samples in [`rows`]; what is told and written while the
//! run goes on is in [`watch`], what is written at its end in [`output`].

mod output;
mod rows;
mod watch;

use std::path::Path;

use anyhow::{Context, Result};
use rootstock_decoder::{Engine, FrozenModel, StepSettings};
use rootstock_model::Checkpoint;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_train::adapter::{Attached, adapter_config, attach, read_config, read_tensors};
use rootstock_train::run::{Trainer, checkpoint};
use serde_json::Value;

use crate::UsageError;
use crate::args::{FinetuneArgs, Method};
use crate::settings::{FinetuneSettings, Resume};
use output::Output;
use rows::Rows;
use watch::Watch;

/// Trains an adapter and writes it.
///
/// # Errors
/// Settings, model, rows or a checkpoint that cannot be used, or files that cannot be written.
pub fn run(args: FinetuneArgs) -> Result<()> {
    let (json, dry_run) = (args.json, args.dry_run);
    let mut settings = FinetuneSettings::new(args)?;
    let checkpoint = Checkpoint::open(&settings.model.path)?;
    let rows = Rows::read(&settings, &checkpoint)?;
    let model = load(&settings, &checkpoint)?;
    let (attached, config) = adapter(&settings, &checkpoint, &model)?;
    settings.decide_by(&config);
    let output = Output::new(&settings, config, &model);
    output.announce(&rows, &attached);
    if dry_run {
        return Ok(());
    }
    output.prepare()?;
    let mut engine = Engine::new(StepSettings {
        arithmetic: settings.arithmetic,
        checkpointing: settings.checkpointing,
        threads: settings.threads,
    })?;
    let both = (rows.train.as_slice(), rows.eval.as_slice());
    let mut trainer = Trainer::new(&mut engine, &model, attached, both, settings.run.clone())?;
    let resumed = go_on(&settings, &mut trainer)?;
    let mut watch = Watch::new(&settings, &output, &trainer, resumed)?;
    let ending = trainer.run(&mut watch)?;
    output.finish(watch, trainer, ending, json)
}

fn load(settings: &FinetuneSettings, checkpoint: &Checkpoint) -> Result<FrozenModel> {
    let packing = Packing {
        precision: match settings.method {
            Method::Lora => WeightPrecision::Stored,
            Method::Qlora => WeightPrecision::Four,
        },
        four_bit_output: false,
        threads: settings.threads,
    };
    let model = FrozenModel::load(checkpoint, settings.max_length, packing);
    model.with_context(|| format!("{} cannot be trained", settings.model.path.display()))
}

/// What is trained, and its configuration.
fn adapter(settings: &FinetuneSettings, checkpoint: &Checkpoint, model: &FrozenModel) -> Result<(Attached, Value)> {
    let made = match &settings.adapter {
        None => {
            let json = adapter_config(&settings.lora, &settings.model.name, checkpoint.hash());
            let config = rootstock_formats::peft::AdapterConfig::parse(json.to_string().as_bytes());
            config
                .map(|config| (config, json))
                .map_err(|error| UsageError(error.to_string()))?
        }
        Some(dir) => read_config(dir)?,
    };
    let (config, json) = made;
    let mut attached = attach(&config, settings.lora.dropout, model, settings.run.seed)?;
    if let Some(dir) = &settings.adapter {
        read_tensors(dir, &mut attached.parameters, model.spec())?;
    }
    Ok((attached, json))
}

/// Puts the run where its checkpoint is; whether there was one.
fn go_on(settings: &FinetuneSettings, trainer: &mut Trainer<'_>) -> Result<bool> {
    let last = || checkpoint::list(&settings.output).pop().map(|(_, path)| path);
    let from = match &settings.resume {
        None => None,
        Some(Resume::Last) => last(),
        Some(Resume::From(path)) => Some(path.clone()),
    };
    let Some(from) = from.as_deref() else { return Ok(false) };
    checkpoint::restore(trainer, from)?;
    eprintln!("goes on after step {} from {}", trainer.step(), Path::display(from));
    Ok(true)
}
