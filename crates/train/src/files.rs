//! Files that have their final name only when they are complete.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::TrainError;

/// Writes a file under a temporary name beside its own, syncs and renames it.
///
/// # Errors
/// Whatever keeps it from being written; nothing is left of it then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(part, path)
    };
    write().map_err(|error| {
        // What is left of it is of no use to anyone.
        let _ = fs::remove_file(part);
        TrainError::io(path, error)
    })
}
