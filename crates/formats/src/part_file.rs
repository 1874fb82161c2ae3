//! Files that have their final name only when they are complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// A file that is being written, beside the place it is meant for and called like it with `.part` after its name. What was
/// there stays until [`Self::finish`]; what is dropped before that is removed.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    part: PathBuf,
    /// `None` once it has its name.
    file: Option<BufWriter<File>>,
}

impl PartFile {
    /// Begins the file that will be `path`; what an earlier attempt has left is gone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        Ok(Self {
            path: path.to_owned(),
            file: Some(BufWriter::with_capacity(BUFFER, File::create(&part)?)),
            part,
        })
    }

    /// Writes what is left to the disk and gives the file its name.
    ///
    /// # Errors
    /// Whatever keeps it from that; nothing is left of it then.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        fs::rename(&self.part, &self.path)?;
        self.file = None;
        Ok(())
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What is left of it is of no use to anyone.
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_what_was_there_stays_until_then() {
        let dir = std::env::temp_dir().join(format!("rootstock-part-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("weights.gguf");
        fs::write(&path, b"stock").unwrap();
        let mut dropped = PartFile::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&path).unwrap(), b"stock");
        let mut whole = PartFile::create(&path).unwrap();
        whole.write_all(b"graft").unwrap();
        whole.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"graft");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left");
        fs::remove_dir_all(&dir).unwrap();
    }
}
