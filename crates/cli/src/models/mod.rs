//! From what `--model`, `--adapter` or a request says to a file or folder, and the name it goes by.

mod adapter;
mod replacements;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use adapter::locate_adapter;
pub use replacements::Replacements;

use crate::UsageError;
use crate::args::ModelArgs;
use crate::catalog::Catalog;
use crate::models_dir;

/// A model or an adapter on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// GGUF file, or a folder in Hugging Face's or PEFT's layout.
    pub path: PathBuf,
    /// Catalog name, or that of the file or folder.
    pub name: String,
}

/// Where a run that wrote its output to a folder has put the model.
pub const OUTPUT_MODEL: &str = "model";

/// Where models are looked for.
#[derive(Debug, Clone)]
pub struct Models {
    catalog: Catalog,
    /// Of pulled models; `None` where the machine has no place for them.
    dir: Option<PathBuf>,
}

impl Models {
    /// As the arguments say.
    ///
    /// # Errors
    /// The catalog cannot be used.
    pub fn new(args: &ModelArgs) -> Result<Self> {
        Ok(Self {
            catalog: Catalog::open(args.catalog.as_deref())?,
            dir: models_dir::resolve(args.models_dir.clone()).ok(),
        })
    }

    /// A path, or a model that was pulled. What lies at the path wins over a name of the catalog; a folder may be one
    /// that a run has written its model into.
    ///
    /// # Errors
    /// There is neither; the message says what to do.
    pub fn locate(&self, model: Option<&str>) -> Result<Located> {
        let Some(model) = model else {
            let ways = "give a GGUF file, a Hugging Face folder or a name of `rootstock pull --list`";
            return Err(UsageError(format!("--model is missing; {ways}")).into());
        };
        let path = Path::new(model);
        if path.is_file() || is_model_folder(path) {
            return Ok(Located {
                name: name_of(path),
                path: path.to_owned(),
            });
        }
        let output = path.join(OUTPUT_MODEL);
        if is_model_folder(&output) {
            return Ok(Located {
                name: name_of(path),
                path: output,
            });
        }
        Ok(self.pulled(model)?)
    }

    /// A model of the catalog.
    ///
    /// # Errors
    /// It is not known, or not pulled.
    pub fn pulled(&self, name: &str) -> Result<Located, UsageError> {
        let Some(entry) = self.catalog.get(name) else {
            let names = self.catalog.names();
            let missing = match Path::new(name).is_dir() {
                true => "a folder without config.json, nor",
                false => "neither a file, a folder nor",
            };
            let reason = format!("--model: {name:?} is {missing} a model of the catalog (it has {names})");
            return Err(UsageError(reason));
        };
        let dir = self.dir.as_ref().ok_or_else(|| {
            UsageError("--model: there is no home folder to keep models in; give one with --models-dir".to_owned())
        })?;
        let path = dir.join(name).join(&entry.files[0].name);
        if !path.is_file() {
            let path = path.display();
            let reason =
                format!("--model: {name} is not pulled yet ({path} does not exist); run `rootstock pull {name}`");
            return Err(UsageError(reason));
        }
        Ok(Located {
            path,
            name: name.to_owned(),
        })
    }
}

/// Whether a folder holds a model in Hugging Face's layout.
fn is_model_folder(path: &Path) -> bool {
    path.join("config.json").is_file()
}

/// The name a path stands for: without the number of a split file's part and its ending, or that of the folder. In the
/// hub's cache, where folders are named by revision, that of the repository.
fn name_of(path: &Path) -> String {
    if path.is_dir() {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let cached = path.ancestors().nth(2).and_then(last_part);
        let repository = cached.as_deref().and_then(|name| name.strip_prefix("models--"));
        let repository = repository.and_then(|name| Some(name.split_once("--")?.1.to_owned()));
        return repository
            .or_else(|| last_part(&path))
            .unwrap_or_else(|| "model".to_owned());
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_else(|| "model".to_owned());
    whole_of_part(&stem).unwrap_or(&stem).to_owned()
}

fn last_part(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// `name` of `name-00001-of-00003`.
fn whole_of_part(stem: &str) -> Option<&str> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(count) && is_number(part) && !name.is_empty()).then_some(name)
}
