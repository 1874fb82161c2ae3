//! Where pulled models are kept: `MODELS_DIR/NAME/FILE`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, anyhow};

/// `--models-dir` (or its environment variable, which clap reads), else the user's data folder as the XDG base directory
/// specification places it.
///
/// # Errors
/// No folder is given and the environment names no home.
pub fn resolve(given: Option<PathBuf>) -> Result<PathBuf> {
    let set = |variable: &str| std::env::var_os(variable).filter(|value: &OsString| !value.is_empty());
    given
        .or_else(|| Some(PathBuf::from(set("XDG_DATA_HOME")?).join("rootstock/models")))
        .or_else(|| Some(std::env::home_dir()?.join(".local/share/rootstock/models")))
        .ok_or_else(|| anyhow!("there is no home folder to keep models in; give one with --models-dir"))
}
