//! From what `--adapter` says to an adapter's folder or file, and the name it goes by.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Located, last_part};
use crate::UsageError;

/// Where a run that wrote its output to a folder has put the adapter.
const OUTPUT: &str = "adapter";

/// A name in the folder of `--adapters`, else a path: a folder, a GGUF file, or a folder that a training run wrote its
/// adapter into.
///
/// # Errors
/// There is no such thing; the message says where it was looked for.
pub fn locate_adapter(adapter: &Path, adapters: Option<&Path>) -> Result<Located> {
    let folder = adapters.map(|folder| folder.join(adapter));
    let file = folder.as_ref().map(|folder| {
        let mut name = folder.clone().into_os_string();
        name.push(".gguf");
        PathBuf::from(name)
    });
    let named = folder.into_iter().chain(file).find(|path| path.exists());
    let Some(path) = named.or_else(|| Some(adapter.to_owned()).filter(|path| path.exists())) else {
        let among = adapters.map_or(String::new(), |folder| format!(", nor in {}", folder.display()));
        let adapter = adapter.display();
        let reason = format!("--adapter: there is no folder or GGUF file {adapter}{among}");
        return Err(UsageError(reason).into());
    };
    Ok(Located {
        name: name_of(&path),
        path: within(path),
    })
}

/// The adapter of a training run's output, where `path` is one.
fn within(path: PathBuf) -> PathBuf {
    let is_adapter = |path: &Path| path.join("adapter_config.json").is_file();
    let output = path.join(OUTPUT);
    if !is_adapter(&path) && is_adapter(&output) {
        output
    } else {
        path
    }
}

/// The name of the folder or the file's stem; of a run's output, that of the run.
fn name_of(path: &Path) -> String {
    if path.is_file() {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        return stem.unwrap_or_else(|| OUTPUT.to_owned());
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let of_run = path.parent().filter(|_| path.file_name() == Some(OsStr::new(OUTPUT)));
    last_part(of_run.unwrap_or(&path)).unwrap_or_else(|| OUTPUT.to_owned())
}
