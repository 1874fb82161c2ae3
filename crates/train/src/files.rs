//! Files that have their final name only when they are complete.

use std::io::{self, Write};
use std::path::Path;

use rootstock_formats::PartFile;

use crate::TrainError;

/// Writes a file under a temporary name beside its own, syncs and renames it.
///
/// # Errors
/// Whatever keeps it from being written; nothing is left of it then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_in_pieces(path, |to| to.write_all(bytes))
}

/// The same for a file that never stands in memory whole.
///
/// # Errors
/// As [`write_whole`].
pub fn write_in_pieces(path: &Path, content: impl FnOnce(&mut PartFile) -> io::Result<()>) -> Result<(), TrainError> {
    let write = || -> io::Result<()> {
        let mut to = PartFile::create(path)?;
        content(&mut to)?;
        to.finish()
    };
    write().map_err(|error| TrainError::io(path, error))
}
