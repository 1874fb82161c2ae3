//! The output folder: what is there before a run, and what is written at its end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rootstock_decoder::Parameters;
use rootstock_model::ArchSpec;
use rootstock_train::TrainError;
use rootstock_train::adapter::{Folder, write_folder};
use rootstock_train::files::write_whole;
use rootstock_train::report::{Cost, Report, Sample};
use rootstock_train::run::checkpoint;
use serde_json::Value;

use super::card::{card, parameters};
use super::outcome::{Facts, Outcome};
use crate::UsageError;
use crate::settings::FinetuneSettings;

/// Where a run's files go.
pub struct Output {
    settings: FinetuneSettings,
    config: Value,
    spec: ArchSpec,
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
    /// For an adapter of this configuration on a base of this architecture.
    pub fn new(settings: FinetuneSettings, config: Value, spec: ArchSpec, facts: Facts) -> Self {
        Self {
            settings,
            config,
            spec,
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

    /// Writes the adapter as it is now, with the outcome of the run where it is at its end.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write_adapter(
        &self,
        dir: &Path,
        parameters: &Parameters,
        outcome: Option<&Outcome>,
    ) -> Result<(), TrainError> {
        let folder = Folder {
            config: &self.config,
            parameters,
            spec: &self.spec,
            card: &card(&self.settings, &self.facts, outcome),
        };
        write_folder(dir, folder)
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
