//! Opening and reading single files of an adapter: regular ones, of bounded size, with refusals that name them.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{AdapterError, AdapterErrorCode};

/// Opens a regular file: a pipe in its place would block, a directory cannot be read.
pub(super) fn open_regular(path: &Path, name: &str) -> Result<(File, Metadata), AdapterError> {
    let found = fs::metadata(path).map_err(|error| io_refusal(&shown(path), &error))?;
    if !found.is_file() {
        let message = format!("{name}: expected a regular file, got another kind");
        return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
    }
    let file = File::open(path).map_err(|error| io_refusal(&shown(path), &error))?;
    let metadata = file.metadata().map_err(|error| io_refusal(name, &error))?;
    Ok((file, metadata))
}

/// The folder's and the file's name: enough to find it, without telling where the server keeps it.
fn shown(path: &Path) -> String {
    let names: PathBuf = path
        .parent()
        .and_then(Path::file_name)
        .into_iter()
        .chain(path.file_name())
        .collect();
    names.display().to_string()
}

/// Reads a whole file that must not be larger than `most` bytes.
pub(super) fn read_small(path: &Path, name: &str, most: u64) -> Result<Vec<u8>, AdapterError> {
    let (file, _) = open_regular(path, name)?;
    read_at_most(file, name, most)
}

pub(super) fn read_at_most(file: File, name: &str, most: u64) -> Result<Vec<u8>, AdapterError> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits, whatever its metadata said.
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| io_refusal(name, &error))?;
    if bytes.len() as u64 > most {
        let message = format!("{name}: expected at most {most} bytes, got more");
        return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
    }
    Ok(bytes)
}

pub(super) fn io_refusal(name: &str, error: &io::Error) -> AdapterError {
    let (code, message) = match error.kind() {
        io::ErrorKind::NotFound => (AdapterErrorCode::NotFound, format!("{name}: expected a file, got none")),
        io::ErrorKind::UnexpectedEof => (
            AdapterErrorCode::Malformed,
            format!("{name}: expected as many bytes as when it was opened, got fewer (truncated file)"),
        ),
        _ => (AdapterErrorCode::Malformed, format!("{name}: {error}")),
    };
    AdapterError::new(code, message)
}
