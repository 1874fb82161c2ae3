//! Folders that have their name only when they are complete; for single files there is [`rootstock_formats::PartFile`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::ModelError;

/// Writes a folder under a hidden name beside its own, which it gets when it is complete; what was there before is gone then.
///
/// # Errors
/// Whatever keeps it from being written; nothing is left of it then.
pub(crate) fn write_folder(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), ModelError>) -> Result<(), ModelError> {
    let (part, old) = (beside(dir, "part"), beside(dir, "old"));
    [&part, &old].into_iter().try_for_each(|left| remove(left))?;
    let filled = fs::create_dir_all(&part)
        .map_err(failed(dir))
        .and_then(|()| fill(&part));
    if let Err(error) = filled {
        // The half of it is of no use, and why it is one is known.
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    if dir.exists() {
        fs::rename(dir, &old).map_err(failed(dir))?;
    }
    fs::rename(&part, dir).map_err(failed(dir))?;
    remove(&old)
}

/// Writes a file of a folder that is being filled.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let write = || -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed(path))
}

/// The error of a file that cannot be written.
pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> ModelError {
    let path = path.to_owned();
    move |error| ModelError::Write {
        path: path.clone(),
        error,
    }
}

/// A hidden name beside another.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

fn remove(dir: &Path) -> Result<(), ModelError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir)(error)),
        _ => Ok(()),
    }
}
