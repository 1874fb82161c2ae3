//! The `.part` file of a download: appended to, verified, and only then renamed to its final name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::catalog::FileEntry;
use crate::progress::Progress;

const CHUNK: usize = 1 << 17;

/// Bytes of a file that is not yet known to be right.
pub struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    size: u64,
    sha256: String,
}

/// Outcome of a verification.
pub enum Verdict {
    /// Size and hash are the catalog's.
    Right,
    /// They are not.
    Wrong {
        /// What was found.
        got: String,
    },
}

impl Partial {
    /// Opens what an earlier pull left at `path`, or an empty file.
    pub fn open(path: &Path, entry: &FileEntry) -> Result<Self> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).append(true).create(true).open(path);
        let file = opened.with_context(|| format!("{} cannot be written", path.display()))?;
        let mut partial = Self {
            path: path.to_owned(),
            length: file.metadata()?.len(),
            file,
            size: entry.size,
            sha256: entry.sha256.clone(),
        };
        if partial.length > partial.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether no bytes are missing.
    pub fn is_complete(&self) -> bool {
        self.length == self.size
    }

    /// Drops what is there.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        Ok(())
    }

    /// Appends all of `reader`; what was written stays when reading fails.
    ///
    /// # Errors
    /// Reading or writing fails, or there is more than the file's size.
    pub fn append(&mut self, reader: &mut dyn Read, progress: &Progress) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if self.length + count as u64 > self.size {
                self.restart()?;
                bail!("size: expected {} bytes, got more", self.size);
            }
            let written = self.file.write_all(&chunk[..count]);
            written.with_context(|| format!("{} cannot be written", self.path.display()))?;
            self.length += count as u64;
            progress.reached(self.length);
        }
    }

    /// Compares size and hash with the catalog's.
    pub fn verify(&mut self) -> Result<Verdict> {
        if !self.is_complete() {
            bail!("size: expected {} bytes, got {}", self.size, self.length);
        }
        self.file.rewind()?;
        let got = sha256(&mut self.file)?;
        Ok(if got == self.sha256 {
            Verdict::Right
        } else {
            Verdict::Wrong { got }
        })
    }

    /// Makes the verified bytes durable, then visible under their final name in one step.
    pub fn publish(self, path: &Path) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path).with_context(|| format!("{} cannot be written", path.display()))?;
        #[cfg(unix)]
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Leaves the bytes for a later pull, if any; returns how many.
    pub fn abandon(self) -> Result<u64> {
        if self.length == 0 {
            fs::remove_file(&self.path)?;
        }
        Ok(self.length)
    }
}

/// SHA-256 of what is left to read, in hexadecimal.
pub fn sha256(reader: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&chunk[..count]),
        }
    }
}
