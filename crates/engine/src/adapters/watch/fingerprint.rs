//! What an adapter's files look like from outside, to tell when they have changed and when they have come to rest.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How deep below an adapter's folder files are looked at: initial adapters and templates lie in subfolders.
const DEEPEST: usize = 2;

/// Names, sizes, modification times and identities of an adapter's files, sorted by name: of one file, or of those in a
/// folder and its subfolders. Hidden files do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint(Vec<FileMark>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileMark {
    /// Below the folder; empty for a file by itself.
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
    /// Tells a file from another that was renamed over it with the same size and time; 0 where there is no such number.
    inode: u64,
}

impl Fingerprint {
    /// Looks at a folder, or at a file by itself; `None` if there is neither at the path.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let mut marks = Vec::new();
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => marks.push(FileMark::new(PathBuf::new(), &metadata)),
            Ok(_) if !look_into(path, Path::new(""), DEEPEST, &mut marks)? => return Ok(None),
            Ok(_) => marks.sort(),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(Self(marks)))
    }
}

impl FileMark {
    fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            inode: inode(metadata),
        }
    }
}

/// Marks what lies in the folder `root/inside`, down to `depth` levels. False if there is no such folder.
fn look_into(root: &Path, inside: &Path, depth: usize, marks: &mut Vec<FileMark>) -> io::Result<bool> {
    let entries = match std::fs::read_dir(root.join(inside)) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let inside = inside.join(entry.file_name());
        match std::fs::metadata(entry.path()) {
            Ok(metadata) => {
                if metadata.is_dir() && depth > 1 {
                    look_into(root, &inside, depth - 1, marks)?;
                }
                marks.push(FileMark::new(inside, &metadata));
            }
            // Gone since it was listed: the next look will differ anyway.
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
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
