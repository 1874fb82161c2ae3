//! Whether a path or a name is a model or an adapter.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rootstock_formats::gguf::Gguf;
use rootstock_formats::mmap::MappedFile;
use rootstock_model::adapter::{CONFIG, is_gguf};

use crate::args::{InspectArgs, ModelArgs};
use crate::models::{Models, locate_adapter};

/// What is inspected.
pub enum Found {
    /// A base model, in a file or a folder.
    Model(PathBuf),
    /// An adapter, likewise.
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
            return Ok(Self::file(path));
        }
        if !path.is_dir() {
            let models = Models::new(&args.base)?;
            return Ok(Self::Model(models.locate(path.to_str())?.path));
        }
        let adapter = locate_adapter(path, None)?.path;
        if adapter.join(CONFIG).is_file() {
            return Ok(Self::Adapter(adapter));
        }
        let models = Models::new(&ModelArgs::default())?;
        match models.locate(path.to_str()) {
            Ok(model) => Ok(Self::Model(model.path)),
            Err(_) => match gguf_files(path).as_slice() {
                [] => {
                    let (path, without) = (path.display(), "config.json, adapter_config.json and .gguf file");
                    bail!("{path}: expected a model or an adapter, got a folder without {without}")
                }
                [one] => Ok(Self::file(one)),
                _ => {
                    let path = path.display();
                    bail!("{path}: expected one model or adapter, got several .gguf files; name one of them")
                }
            },
        }
    }

    fn file(path: &Path) -> Self {
        let is_adapter = header(path).is_some_and(|gguf| is_adapter(&gguf));
        match is_adapter {
            true => Self::Adapter(path.to_owned()),
            false => Self::Model(path.to_owned()),
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

fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_gguf(path)).collect()
}
