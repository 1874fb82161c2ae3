//! The output folder: what is there before a run, and what is written at its end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rootstock_model::{ArchSpec, ModelFolder, SaveSettings};
use rootstock_train::TrainError;
use rootstock_train::adapter::{Attached, Folder, write_folder};
use rootstock_train::files::write_whole;
use rootstock_train::report::{Cost, Report, Sample};
use rootstock_train::run::checkpoint;
use serde_json::Value;

use super::card::{card, parameters};
use super::outcome::{Facts, Outcome};
use crate::UsageError;
use crate::models::OUTPUT_MODEL;
use crate::settings::FinetuneSettings;

/// What a run makes.
pub enum Product {
    /// Tensors beside those of a base of this architecture, and their configuration.
    Adapter { config: Value, spec: ArchSpec },
    /// The weights of a model.
    Model(ModelFolder),
}

/// Where a run's files go.
pub struct Output {
    settings: FinetuneSettings,
    product: Product,
    facts: Facts,
}

/// Makes sure that nothing in the folder is lost.
///
/// # Errors
/// It has something in it, or cannot be read.
pub fn check(settings: &FinetuneSettings) -> Result<()> {
    let shown = settings.output.display();
    if !settings.output.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(&settings.output).with_context(|| format!("--output: {shown} cannot be read"))?;
    if entries.count() > 0 && !settings.overwrite && settings.resume.is_none() {
        let ways = "take another folder, --overwrite, or --resume-from-checkpoint to go on with its run";
        return Err(UsageError(format!("--output: {shown} is not empty; {ways}")).into());
    }
    Ok(())
}

impl Output {
    /// For a run that makes this.
    pub fn new(settings: FinetuneSettings, product: Product, facts: Facts) -> Self {
        Self {
            settings,
            product,
            facts,
        }
    }

    /// What the run was asked to do.
    pub fn settings(&self) -> &FinetuneSettings {
        &self.settings
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.settings.output
    }

    /// What is known of the run before it begins.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(dir).with_context(|| format!("--output: {} cannot be made", dir.display()))?;
        match &self.settings.resume {
            None => checkpoint::clear(dir)?,
            Some(_) => checkpoint::tidy(dir)?,
        }
        Ok(())
    }

    /// Bytes of the weights of a model that is written.
    pub fn model_bytes(&self) -> Option<u64> {
        match &self.product {
            Product::Adapter { .. } => None,
            Product::Model(folder) => Some(folder.weight_bytes(self.settings.save_float)),
        }
    }

    /// Writes what is trained as it is now, with the outcome of the run where it is at its end: an adapter into the folder, a
    /// model below it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write(&self, dir: &Path, attached: &Attached, outcome: Option<&Outcome>) -> Result<(), TrainError> {
        let card = &card(&self.settings, &self.facts, outcome);
        match &self.product {
            Product::Adapter { config, spec } => {
                let parameters = &attached.parameters;
                let folder = Folder {
                    config,
                    parameters,
                    spec,
                    card,
                };
                write_folder(dir, folder)
            }
            Product::Model(folder) => {
                let settings = SaveSettings {
                    float: self.settings.save_float,
                    shard_bytes: SaveSettings::SHARD_BYTES,
                    card,
                };
                Ok(folder.write(&dir.join(OUTPUT_MODEL), attached, &settings)?)
            }
        }
    }

    /// Writes what there is beside the adapter.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write_report(&self, outcome: &Outcome, samples: Vec<Sample>) -> Result<()> {
        let mut results = serde_json::to_vec_pretty(outcome)?;
        results.push(b'\n');
        write_whole(&self.dir().join("train_results.json"), &results)?;
        self.report(outcome, samples).write(&self.dir().join("report.html"))?;
        Ok(())
    }

    fn report(&self, outcome: &Outcome, samples: Vec<Sample>) -> Report {
        Report {
            title: format!("{} on {}", self.settings.title, self.facts.base),
            settings: parameters(&self.settings, &self.facts),
            records: outcome.records.clone(),
            best: outcome.best,
            samples,
            cost: Cost {
                time: Duration::try_from_secs_f64(outcome.runtime).unwrap_or_default(),
                tokens: outcome.tokens,
                peak_memory: outcome.peak_memory,
            },
            dataset: self.facts.dataset,
            warnings: outcome.warnings.clone(),
        }
    }
}
