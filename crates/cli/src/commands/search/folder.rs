//! The output folder of a search: `search.json` (what all trials have in common), `trials.jsonl`, a folder for the records of each
//! trial, `search.html`, and the best adapter so far with its records.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rootstock_train::TrainError;
use rootstock_train::files::write_whole;
use rootstock_train::report::Sample;
use rootstock_train::run::checkpoint;
use rootstock_train::search::{Page, Search};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::io;
use crate::UsageError;
use crate::settings::{SearchSettings, trial_folder};

/// What all trials have in common.
const COMMON: &str = "search.json";
/// The search's own report.
const PAGE: &str = "search.html";
/// What a trial has written down, which stays with it.
const RECORDS: [&str; 3] = ["metrics.jsonl", "train_results.json", "report.html"];
/// TensorBoard's events, which stay with it, too.
const EVENTS: &str = "runs";

/// The contents of `search.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Common {
    metric: String,
    pruning: Option<rootstock_train::search::MedianPruning>,
    settings: BTreeMap<String, String>,
}

/// Where a search's files go.
pub struct Folder<'a>(&'a SearchSettings);

impl<'a> Folder<'a> {
    /// Makes the folder, or finds the search in it that is to go on.
    ///
    /// # Errors
    /// Something else is in it, or a search with other settings.
    pub fn open(settings: &'a SearchSettings) -> Result<Self> {
        let (dir, shown) = (&settings.output, settings.output.display());
        fs::create_dir_all(dir).with_context(|| format!("--output: {shown} cannot be made"))?;
        let folder = Self(settings);
        if settings.overwrite {
            folder.clear()?;
        }
        let common = folder.common();
        match fs::read(dir.join(COMMON)) {
            Ok(bytes) => {
                let before = serde_json::from_slice(&bytes).with_context(|| format!("{shown}/{COMMON}"))?;
                same_search(&common, &before).map_err(|reason| {
                    let ways = "go on with those, take another folder, or --overwrite";
                    UsageError(format!(
                        "--output: the search in {shown} was begun with other settings ({reason}); {ways}"
                    ))
                })?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let entries = fs::read_dir(dir).with_context(|| format!("--output: {shown} cannot be read"))?;
                if entries.count() > 0 && !settings.overwrite {
                    let reason = format!(
                        "--output: {shown} is not empty and has no search in it; take another folder, or --overwrite"
                    );
                    return Err(UsageError(reason).into());
                }
                write_whole(&dir.join(COMMON), &serde_json::to_vec_pretty(&common)?)?;
            }
            Err(error) => return Err(error).with_context(|| format!("{shown}/{COMMON}")),
        }
        Ok(folder)
    }

    /// Removes an earlier search; first what it is known by, so that half of it is none.
    fn clear(&self) -> Result<()> {
        let dir = &self.0.output;
        for name in [COMMON, "trials.jsonl", PAGE, "trials"] {
            remove(&dir.join(name))?;
        }
        Ok(())
    }

    fn common(&self) -> Common {
        Common {
            metric: self.0.metric.to_string(),
            pruning: self.0.search.pruning,
            settings: self.0.fixed.clone(),
        }
    }

    /// Where the search keeps its trials.
    pub fn trials_file(&self) -> PathBuf {
        self.0.output.join("trials.jsonl")
    }

    /// Moves the best adapter so far into the output folder, and removes all others; writes the report.
    ///
    /// # Errors
    /// Files that cannot be written or removed.
    pub fn settle(&self, search: &Search) -> Result<(), TrainError> {
        let best = search.best().map(|best| best.trial);
        for trial in search.trials() {
            let dir = trial_folder(&self.0.output, trial.trial);
            checkpoint::clear(&dir)?;
            // Of the best, nothing is left once it has been moved.
            let learned = learned(&dir);
            match best == Some(trial.trial) && !learned.is_empty() {
                true => self.publish(&dir, &learned)?,
                false => learned.iter().try_for_each(|path| remove(path))?,
            }
        }
        self.write_page(search, &[])
    }

    fn publish(&self, trial: &Path, learned: &[PathBuf]) -> Result<(), TrainError> {
        for file in RECORDS {
            let from = trial.join(file);
            let mut bytes = fs::read(&from).map_err(|error| io(&from, error))?;
            if file == "train_results.json" {
                bytes = self.as_output(bytes);
            }
            write_whole(&self.0.output.join(file), &bytes)?;
        }
        for from in learned {
            let Some(name) = from.file_name() else { continue };
            let to = self.0.output.join(name);
            if to.is_dir() {
                remove(&to)?;
            }
            fs::rename(from, &to).map_err(|error| io(&to, error))?;
        }
        Ok(())
    }

    /// A trial's results, with the adapter where it is now.
    fn as_output(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Ok(mut results) = serde_json::from_slice::<Value>(&bytes) else {
            return bytes;
        };
        results["output"] = Value::from(self.0.output.display().to_string());
        serde_json::to_vec_pretty(&results).unwrap_or(bytes)
    }

    /// Writes the report of the search as it is now.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_page(&self, search: &Search, samples: &[Sample]) -> Result<(), TrainError> {
        let settings: Vec<_> = self.0.fixed.clone().into_iter().collect();
        let title = self.0.trials.first().map_or("", |trial| &trial.title);
        let page = Page {
            title: &format!("{title}: search"),
            metric: &self.0.metric.to_string(),
            settings: &settings,
            samples,
        };
        write_whole(&self.0.output.join(PAGE), search.html(&page).as_bytes())
    }
}

/// Which setting differs, if one does.
fn same_search(now: &Common, before: &Common) -> std::result::Result<(), String> {
    let shown = |value: Option<&String>| value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"));
    let names = now.settings.keys().chain(before.settings.keys());
    for name in names {
        let (now, before) = (now.settings.get(name), before.settings.get(name));
        if now != before {
            return Err(format!("--{name}: now {}, then {}", shown(now), shown(before)));
        }
    }
    match (now.metric == before.metric, now.pruning == before.pruning) {
        (false, _) => Err(format!("--metric: now {}, then {}", now.metric, before.metric)),
        (_, false) => Err("--pruning".to_owned()),
        _ => Ok(()),
    }
}

/// What a trial has learned: all that is neither records nor events.
fn learned(trial: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(trial).into_iter().flatten().flatten();
    let stays = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        RECORDS.iter().chain(&[EVENTS]).any(|stays| name == *stays)
    };
    let mut learned: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| !stays(path)).collect();
    learned.sort();
    learned
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<(), TrainError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}
