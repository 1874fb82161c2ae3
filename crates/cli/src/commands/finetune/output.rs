//! The output folder: what is there before a run, and what is written at its end.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rootstock_decoder::{FrozenModel, Parameters};
use rootstock_train::TrainError;
use rootstock_train::adapter::{Attached, Folder, write_folder};
use rootstock_train::run::{Ending, Trainer, checkpoint};
use serde_json::{Value, json};

use super::rows::Rows;
use super::watch::Watch;
use crate::UsageError;
use crate::settings::FinetuneSettings;

/// Where a run's files go.
pub struct Output<'a> {
    settings: &'a FinetuneSettings,
    config: Value,
    model: &'a FrozenModel,
}

impl<'a> Output<'a> {
    /// For an adapter of this configuration.
    pub fn new(settings: &'a FinetuneSettings, config: Value, model: &'a FrozenModel) -> Self {
        Self {
            settings,
            config,
            model,
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.settings.output
    }

    /// Says what will be trained on what.
    pub fn announce(&self, rows: &Rows, attached: &Attached) {
        let spec = self.model.spec();
        let of_maps: usize = spec
            .sites()
            .filter_map(|site| spec.shape(site))
            .map(|(inputs, outputs)| inputs * outputs)
            .sum();
        let tied = if spec.tied_output {
            spec.vocab_size * spec.hidden_size
        } else {
            0
        };
        let (trained, all) = (attached.parameters.elements(), of_maps - tied);
        eprintln!(
            "trainable params: {trained} || all params: {} || trainable%: {:.4}",
            all + trained,
            100.0 * trained as f64 / (all + trained) as f64
        );
        eprintln!(
            "{} rows to train on, {} held out, {} samples cut",
            rows.train.len(),
            rows.eval.len(),
            rows.truncated
        );
    }

    /// Makes the folder, and makes sure that nothing in it is lost.
    ///
    /// # Errors
    /// A folder that has something in it, or that cannot be made.
    pub fn prepare(&self) -> Result<()> {
        let dir = self.dir();
        let shown = dir.display();
        fs::create_dir_all(dir).with_context(|| format!("--output: {shown} cannot be made"))?;
        let entries = fs::read_dir(dir).with_context(|| format!("--output: {shown} cannot be read"))?;
        if entries.count() > 0 && !self.settings.overwrite && self.settings.resume.is_none() {
            let ways = "take another folder, --overwrite, or --resume-from-checkpoint to go on with its run";
            return Err(UsageError(format!("--output: {shown} is not empty; {ways}")).into());
        }
        match &self.settings.resume {
            None => checkpoint::clear(dir)?,
            Some(_) => checkpoint::tidy(dir)?,
        }
        Ok(())
    }

    /// Writes the adapter as it is now.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write_adapter(&self, dir: &Path, parameters: &Parameters) -> Result<(), TrainError> {
        let folder = Folder {
            config: &self.config,
            parameters,
            spec: self.model.spec(),
            card: &self.card(),
        };
        write_folder(dir, folder)
    }

    fn card(&self) -> String {
        let base = &self.settings.model.name;
        format!(
            "---\nlibrary_name: peft\nbase_model: {base}\ntags:\n- lora\n- rootstock\n---\n\n# An adapter on {base}\n"
        )
    }

    /// Writes everything, and says so.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn finish(&self, watch: Watch<'_>, trainer: Trainer<'_>, ending: Ending, json: bool) -> Result<()> {
        let (step, [read, learned], best) = (trainer.step(), trainer.tokens(), trainer.best());
        self.write_adapter(self.dir(), &trainer.into_attached().parameters)?;
        let last = |of: fn(&rootstock_train::records::Record) -> Option<f64>| watch.records.iter().rev().find_map(of);
        let result = json!({
            "output": self.dir(),
            "ending": format!("{ending:?}").to_lowercase(),
            "steps": step,
            "tokens": read,
            "learned_tokens": learned,
            "loss": last(|record| record.loss),
            "eval_loss": last(|record| record.eval_loss),
            "best": best,
            "warnings": watch.warnings,
        });
        match json {
            true => println!("{result}"),
            false => println!("{}", self.dir().display()),
        }
        Ok(())
    }
}
