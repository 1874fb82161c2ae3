//! What the runs of a command share: the base in memory, the rows that were read last, and the wait for Ctrl-C. A single run, the
//! tasks of a file and the trials of a search all go through [`Loaded::train`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rootstock_decoder::FrozenModel;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_model::{Checkpoint, ModelFolder};
use rootstock_train::adapter::{
    Attached, Configuration, adapter_config, attach, begin_as_components, bottleneck_config, doubled_config,
    read_config, read_tensors,
};
use rootstock_train::dataset::Example;
use rootstock_train::disk;
use rootstock_train::full::attach_all;
use rootstock_train::run::{Observer, Trainer, checkpoint};
use serde_json::{Value, json};

use super::engine::engine;
use super::interrupt::Interrupt;
use super::outcome::{Facts, Outcome};
use super::output::{Output, Product};
use super::plan::Planned;
use super::rows::Rows;
use super::samples;
use super::watch::{Judge, Watch};
use crate::UsageError;
use crate::args::Method;
use crate::settings::{FinetuneSettings, Resume};

/// The base and the rows of the last run, for the next.
pub struct Loaded {
    /// Tokens of the longest sequence of all runs.
    longest: usize,
    model: Option<((PathBuf, WeightPrecision), FrozenModel)>,
    rows: Option<(FinetuneSettings, Rows)>,
    interrupt: Option<Arc<Interrupt>>,
}

/// A run that came to an end; its adapter and its records are written.
pub struct Run {
    /// Its files.
    pub output: Output,
    /// What came of it.
    pub outcome: Outcome,
    /// Rows held out that are to be asked about.
    prompts: Vec<Example>,
}

impl Loaded {
    /// Nothing yet, for these runs.
    pub fn for_runs<'a>(runs: impl IntoIterator<Item = &'a FinetuneSettings>) -> Self {
        let lengths = runs.into_iter().map(|settings| settings.max_length);
        Self {
            longest: lengths.max().unwrap_or(0),
            model: None,
            rows: None,
            interrupt: None,
        }
    }

    /// Whether the user wants an end.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|interrupt| interrupt.asked())
    }

    /// Trains an adapter and writes it. A judge sees every evaluation, and may end the run.
    ///
    /// # Errors
    /// Settings, model, rows or a checkpoint that cannot be used, too little memory or disk, or files that cannot be written.
    pub fn train(&mut self, settings: FinetuneSettings, judge: Option<Judge<'_>>) -> Result<Run> {
        let known = self.interrupt.clone();
        let job = self.job(settings)?;
        // From here on, and not while a base is loaded, an end waits for a step.
        let interrupt = known.map_or_else(Interrupt::new, Ok)?;
        let run = job.train(&interrupt, judge);
        interrupt.end();
        self.interrupt = Some(interrupt);
        run
    }

    /// What a run would take; nothing is written.
    ///
    /// # Errors
    /// As of a run, but for what is written.
    pub fn plan(&mut self, settings: FinetuneSettings) -> Result<Planned> {
        self.job(settings)?.plan()
    }

    /// The rows held out that are to be asked about; the base is gone from memory afterwards.
    ///
    /// # Errors
    /// Model or rows that cannot be read.
    pub fn into_prompts(mut self, settings: &FinetuneSettings) -> Result<Vec<Example>> {
        let mut settings = settings.clone();
        let checkpoint = Checkpoint::open(&settings.model.path)?;
        settings.keep_within(checkpoint.spec().context_length);
        Ok(read(&mut self.rows, &settings, &checkpoint)?.prompts.clone())
    }

    fn job(&mut self, mut settings: FinetuneSettings) -> Result<Job<'_>> {
        let checkpoint = Checkpoint::open(&settings.model.path)?;
        settings.keep_within(checkpoint.spec().context_length);
        let rows = read(&mut self.rows, &settings, &checkpoint)?;
        let model = load(&mut self.model, &settings, &checkpoint, self.longest)?;
        let (attached, product, method) = trained(&mut settings, &checkpoint, model)?;
        let facts = Facts::new((&settings, method), &checkpoint, &attached, rows);
        // Its mapped file would count as ours from here to the end.
        drop(checkpoint);
        facts.announce();
        Ok(Job {
            output: Output::new(settings, product, facts),
            attached,
            model,
            rows,
        })
    }
}

impl Run {
    /// Has base and adapter answer rows that were held out, for the report. The base is loaded once more for it, to answer as it
    /// is served: what was trained on should be gone from memory.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn answer(&mut self) -> Result<()> {
        let samples = samples::answers(self.output.settings(), &self.prompts, &mut self.outcome.warnings);
        self.output.write_report(&self.outcome, samples)
    }
}

/// A run and what it reads.
struct Job<'a> {
    output: Output,
    attached: Attached,
    model: &'a FrozenModel,
    rows: &'a Rows,
}

impl Job<'_> {
    fn plan(self) -> Result<Planned> {
        let settings = self.output.settings();
        let mut engine = engine(settings, self.model)?;
        let mut trainer = Trainer::new(
            engine.as_mut(),
            self.model,
            self.attached,
            self.rows.both(),
            settings.run.clone(),
        )?;
        go_on(settings, &mut trainer)?;
        Planned::new(settings, &mut trainer, self.output.model_bytes())
    }

    fn train(self, interrupt: &Interrupt, judge: Option<Judge<'_>>) -> Result<Run> {
        let settings = self.output.settings();
        let mut engine = engine(settings, self.model)?;
        let mut trainer = Trainer::new(
            engine.as_mut(),
            self.model,
            self.attached,
            self.rows.both(),
            settings.run.clone(),
        )?;
        let resumed = go_on(settings, &mut trainer)?;
        let warnings = trainer.fit()?;
        disk::check(&settings.output, trainer.disk(self.output.model_bytes()))?;
        self.output.prepare()?;
        let mut watch = Watch::new(&self.output, &trainer, resumed, (interrupt, judge))?;
        warnings.iter().for_each(|warning| watch.warning(warning));
        let ending = trainer.run(&mut watch)?;
        let outcome = watch.finish(&trainer, ending);
        self.output
            .write(&settings.output, trainer.attached(), Some(&outcome))?;
        drop(trainer);
        self.output.write_report(&outcome, Vec::new())?;
        Ok(Run {
            output: self.output,
            outcome,
            prompts: self.rows.prompts.clone(),
        })
    }
}

/// The rows of the settings: those that are there, where they are the same.
fn read<'a>(
    kept: &'a mut Option<(FinetuneSettings, Rows)>,
    settings: &FinetuneSettings,
    checkpoint: &Checkpoint,
) -> Result<&'a Rows> {
    let found = kept.take().filter(|(of, _)| of.has_rows_of(settings));
    let rows = match found {
        Some((_, rows)) => rows,
        None => Rows::read(settings, checkpoint)?,
    };
    Ok(&kept.insert((settings.clone(), rows)).1)
}

/// The base of the settings: the one that is there, where it is the same.
fn load<'a>(
    kept: &'a mut Option<((PathBuf, WeightPrecision), FrozenModel)>,
    settings: &FinetuneSettings,
    checkpoint: &Checkpoint,
    longest: usize,
) -> Result<&'a mut FrozenModel> {
    let wanted = (settings.model.path.clone(), settings.weights());
    // Another one is dropped before this one is loaded.
    let found = kept
        .take()
        .filter(|(found, model)| *found == wanted && model.is_whole());
    if let Some((_, model)) = found {
        return Ok(&mut kept.insert((wanted, model)).1);
    }
    eprintln!("loading {}", settings.model.name);
    let packing = Packing {
        precision: wanted.1,
        four_bit_output: false,
        threads: settings.threads,
    };
    let longest = longest.clamp(settings.max_length, checkpoint.spec().context_length);
    let model = FrozenModel::load(checkpoint, longest, packing);
    let model = model.with_context(|| format!("{} cannot be trained", settings.model.path.display()))?;
    Ok(&mut kept.insert((wanted, model)).1)
}

/// What is trained, what it becomes, and the name of the method.
fn trained(
    settings: &mut FinetuneSettings,
    checkpoint: &Checkpoint,
    model: &mut FrozenModel,
) -> Result<(Attached, Product, &'static str)> {
    if settings.method == Method::Full {
        settings.decide_by(&json!({"rootstock_base_hash": checkpoint.hash().to_string()}));
        let folder = ModelFolder::of(checkpoint)?;
        return Ok((attach_all(model)?, Product::Model(folder), "full"));
    }
    let (config, json) = configuration(settings, checkpoint)?;
    let attached = adapter(settings, &config, model)?;
    settings.decide_by(&json);
    let method = config.bottleneck_method().unwrap_or(match settings.method {
        Method::Qlora => "qlora",
        _ => "lora",
    });
    let config = match settings.starts_from_components() {
        true => doubled_config(&json),
        false => json,
    };
    let spec = model.spec().clone();
    Ok((attached, Product::Adapter { config, spec }, method))
}

/// The configuration of an adapter that is trained, as it is read and as it is written.
fn configuration(settings: &FinetuneSettings, checkpoint: &Checkpoint) -> Result<(Configuration, Value)> {
    let (config, json) = match &settings.adapter {
        None => {
            let (name, hash) = (&settings.model.name, checkpoint.hash());
            let json = match &settings.bottleneck {
                Some(bottleneck) => bottleneck_config(bottleneck, checkpoint.spec(), name, hash),
                None => adapter_config(&settings.lora, name, hash),
            };
            let config = Configuration::parse(json.to_string().as_bytes());
            (config.map_err(|error| UsageError(error.to_string()))?, json)
        }
        Some(dir) => read_config(dir)?,
    };
    if settings.bottleneck.is_some() && config.bottleneck_method().is_none() {
        let reason = "--method: the adapter to go on from has low-rank pairs and no bottlenecks";
        return Err(UsageError(reason.to_owned()).into());
    }
    Ok((config, json))
}

/// The tensors of an adapter with their first values.
fn adapter(settings: &FinetuneSettings, config: &Configuration, model: &FrozenModel) -> Result<Attached> {
    let mut attached = attach(config, settings.lora.dropout, model, settings.run.seed)?;
    if let Some(dir) = &settings.adapter {
        read_tensors(dir, &mut attached.parameters, model.spec())?;
    } else if settings.starts_from_components() {
        let start = (settings.run.seed, settings.threads);
        begin_as_components(&mut attached, model, settings.lora.initialisation, start)?;
    }
    Ok(attached)
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
