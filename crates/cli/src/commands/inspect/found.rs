//! Whether a path or a name is a model or an adapter.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rootstock_formats::gguf::Gguf;
use rootstock_formats::mmap::MappedFile;
use rootstock_model::adapter::{CONFIG, is_gguf};

use crate::args::{InspectArgs, ModelArgs};
use crate::models::{Located, Models, locate_adapter};

/// What is inspected.
pub enum Found {
    /// A base model.
    Model(Located),
    /// A folder or file.
    Adapter(PathBuf),
}

impl Found {
    /// What lies at the path of the arguments wins over a name of the catalog.
    ///
    /// # Errors
    /// There is neither, or a folder that is neither.
    pub fn at(args: &InspectArgs) -> Result<Self> {
        let path = args.path.as_path();
        if path.is_file() {
            let is_adapter = header(path).is_some_and(|gguf| is_adapter(&gguf));
            return Ok(match is_adapter {
                true => Self::Adapter(path.to_owned()),
                false => Self::Model(located(path)),
            });
        }
        if !path.is_dir() {
            let models = Models::new(&args.base)?;
            return models.locate(path.to_str()).map(Self::Model);
        }
        let adapter = locate_adapter(path, None)?.path;
        if adapter.join(CONFIG).is_file() {
            return Ok(Self::Adapter(adapter));
        }
        let models = Models::new(&ModelArgs::default())?;
        match models.locate(path.to_str()) {
            Ok(model) => Ok(Self::Model(model)),
            Err(_) if holds_gguf(path) => Ok(Self::Adapter(path.to_owned())),
            Err(_) => {
                let path = path.display();
                bail!(
                    "{path}: expected a model or an adapter, got a folder without config.json, adapter_config.json and .gguf file"
                )
            }
        }
    }
}

/// The header of a GGUF file; `None` of what is none, or broken.
pub fn header(path: &Path) -> Option<Gguf> {
    Gguf::parse(&MappedFile::open(path).ok()?).ok()
}

fn is_adapter(gguf: &Gguf) -> bool {
    gguf.get_str("general.type").ok().flatten() == Some("adapter")
}

fn located(path: &Path) -> Located {
    let name = path.file_stem().unwrap_or(path.as_os_str());
    Located {
        path: path.to_owned(),
        name: name.to_string_lossy().into_owned(),
    }
}

fn holds_gguf(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| is_gguf(&path))
}
