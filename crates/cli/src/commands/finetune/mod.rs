//! `rootstock finetune`: from a file of rows to an adapter. Rows become samples in [`rows`]; [`plan`] says what a run will take;
//! what is told and written while it goes on is in [`watch`]; what came of it in [`outcome`], its files in [`output`], with the
//! answers of [`samples`] and the model [`card`].

mod card;
mod engine;
mod outcome;
mod output;
mod plan;
mod rows;
mod samples;
mod watch;

use std::path::Path;

use anyhow::{Context, Result};
use rootstock_decoder::FrozenModel;
use rootstock_model::Checkpoint;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_train::adapter::{Attached, adapter_config, attach, read_config, read_tensors};
use rootstock_train::run::{Observer, Trainer, checkpoint};
use serde_json::Value;

use crate::UsageError;
use crate::args::{FinetuneArgs, Method};
use crate::settings::{FinetuneSettings, Resume};
use engine::engine;
use outcome::{Facts, Outcome};
use output::Output;
use rows::Rows;
use watch::Watch;

/// Trains an adapter and writes it.
///
/// # Errors
/// Settings, model, rows or a checkpoint that cannot be used, too little memory, or files that cannot be written.
pub fn run(args: FinetuneArgs) -> Result<()> {
    let (json, dry_run) = (args.json, args.dry_run);
    let mut settings = FinetuneSettings::new(args)?;
    output::check(&settings)?;
    let checkpoint = Checkpoint::open(&settings.model.path)?;
    settings.keep_within(checkpoint.spec().context_length);
    let rows = Rows::read(&settings, &checkpoint)?;
    let model = load(&settings, &checkpoint)?;
    let (attached, config) = adapter(&settings, &checkpoint, &model)?;
    settings.decide_by(&config);
    let facts = Facts::new(&settings, &checkpoint, &attached, &rows);
    // Its mapped file would count as ours from here to the end.
    drop(checkpoint);
    facts.announce();
    let output = Output::new(&settings, config, model.spec().clone(), facts);
    let prompts = rows.prompts.clone();
    let job = Job {
        settings: &settings,
        output: &output,
        rows,
    };
    if dry_run {
        return job.plan(&model, attached, json);
    }
    let mut outcome = job.train(&model, attached)?;
    // The base is loaded once more, to answer as it is served.
    drop(model);
    let samples = samples::answers(&settings, &prompts, &mut outcome.warnings);
    output.finish(&outcome, samples, json)
}

/// A run and what it reads.
struct Job<'a> {
    settings: &'a FinetuneSettings,
    output: &'a Output<'a>,
    rows: Rows,
}

impl Job<'_> {
    fn plan(&self, model: &FrozenModel, attached: Attached, json: bool) -> Result<()> {
        let (mut engine, run) = (engine(self.settings, model)?, self.settings.run.clone());
        let mut trainer = Trainer::new(engine.as_mut(), model, attached, self.rows.both(), run)?;
        go_on(self.settings, &mut trainer)?;
        plan::show(self.settings, &mut trainer, json)
    }

    /// Trains, and writes the adapter.
    fn train(self, model: &FrozenModel, attached: Attached) -> Result<Outcome> {
        let (mut engine, run) = (engine(self.settings, model)?, self.settings.run.clone());
        let mut trainer = Trainer::new(engine.as_mut(), model, attached, self.rows.both(), run)?;
        let resumed = go_on(self.settings, &mut trainer)?;
        let warnings = trainer.fit()?;
        self.output.prepare()?;
        let mut watch = Watch::new(self.settings, self.output, &trainer, resumed)?;
        warnings.iter().for_each(|warning| watch.warning(warning));
        let ending = trainer.run(&mut watch)?;
        let outcome = watch.finish(&trainer, ending);
        let parameters = &trainer.attached().parameters;
        self.output
            .write_adapter(self.settings.output.as_path(), parameters, Some(&outcome))?;
        Ok(outcome)
    }
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
