//! Read-only mapping of whole files. The only unsafe code of this crate.
#![allow(unsafe_code, reason = "mapping a file is unsafe by nature; see the SAFETY note")]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::FormatError;

/// Bytes that stand in memory while a file is read through.
const PIECE: usize = 32 << 20;

/// A file mapped into memory, for weights that do not change while they are served (a base model).
///
/// Files that others may rewrite at any time, such as adapters, are read into memory instead.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// [`FormatError::Io`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to this value, which hands out slices bounded by its own lifetime. What
        // Rust cannot rule out is another process truncating or rewriting the file meanwhile: callers map only files that are
        // replaced by rename (as `rootstock pull` does), never in place, which leaves a mapped inode untouched.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Lets go of the pages that have been read: they no longer count as memory of this process, and what is read again comes
    /// from the file. For who goes through a file that is larger than the memory it may take.
    pub fn release(&self) {
        #[cfg(unix)]
        // SAFETY: the mapping is of a file and read-only, so that pages that are dropped are read from the file again with the same
        // bytes, slices that are lent out included.
        let released = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // A system that keeps them is only less frugal.
        #[cfg(unix)]
        drop(released);
    }

    /// Gives all bytes to `read`, some at a time, each of which is let go of.
    pub fn read_through(&self, mut read: impl FnMut(&[u8])) {
        for piece in self.map.chunks(PIECE) {
            read(piece);
            self.release();
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_its_bytes() {
        let path = std::env::temp_dir().join(format!("rootstock-mmap-{}", std::process::id()));
        std::fs::write(&path, b"graft").unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*mapped, b"graft");
    }

    #[test]
    fn a_missing_file_is_an_io_error() {
        let error = MappedFile::open(Path::new("/nonexistent/weights.gguf")).unwrap_err();
        assert!(matches!(error, FormatError::Io(_)), "{error}");
    }
}
