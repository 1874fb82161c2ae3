//! What a folder looks like from outside, to tell when it has changed and when it has come to rest.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

/// Names, sizes, modification times and identities of a folder's files, sorted by name. Hidden files do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint(Vec<FileMark>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileMark {
    name: OsString,
    bytes: u64,
    modified: Option<SystemTime>,
    /// Tells a file from another that was renamed over it with the same size and time; 0 where there is no such number.
    inode: u64,
}

impl Fingerprint {
    /// Looks at a folder; `None` if there is no folder at the path.
    pub(super) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut marks = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if is_hidden(&name) {
                continue;
            }
            match std::fs::metadata(entry.path()) {
                Ok(metadata) => marks.push(FileMark {
                    name,
                    bytes: metadata.len(),
                    modified: metadata.modified().ok(),
                    inode: inode(&metadata),
                }),
                // Gone since it was listed: the next look will differ anyway.
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        marks.sort();
        Ok(Some(Self(marks)))
    }
}

/// Names with a leading dot belong to whoever is writing: they are not adapters and not part of one.
pub(super) fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}
