//! Files that have their final name only when they are complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::TrainError;

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

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
pub fn write_in_pieces(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), TrainError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let write = || -> io::Result<()> {
        let file = File::create(part)?;
        let mut to = BufWriter::with_capacity(BUFFER, &file);
        content(&mut to)?;
        to.flush()?;
        file.sync_all()?;
        fs::rename(part, path)
    };
    write().map_err(|error| {
        // What is left of it is of no use to anyone.
        let _ = fs::remove_file(part);
        TrainError::io(path, error)
    })
}
