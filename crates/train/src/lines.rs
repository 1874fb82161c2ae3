//! A file of JSON lines that a killed process leaves readable: a line is written in one piece, and a torn last one is cut when the
//! file is opened again. Metrics and trials are kept in such files.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TrainError;

/// An open file of lines.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    path: PathBuf,
}

impl Lines {
    /// An empty file, in place of whatever was there.
    pub(crate) fn create(path: &Path) -> Result<Self, TrainError> {
        let file = File::create(path).map_err(|error| TrainError::io(path, error))?;
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    /// The lines of a file up to the first that is not to be kept, and the file cut there. One that is not there is empty.
    pub(crate) fn open<T: DeserializeOwned>(
        path: &Path,
        keep: impl Fn(&T) -> bool,
    ) -> Result<(Self, Vec<T>), TrainError> {
        let io = |error| TrainError::io(path, error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(io)?;
        let text = std::io::read_to_string(&mut file).map_err(io)?;
        let (mut values, mut kept) = (Vec::new(), 0);
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        for (index, line) in whole.enumerate() {
            let value = parse(path, index + 1, line)?;
            if !keep(&value) {
                break;
            }
            kept += line.len() as u64;
            values.push(value);
        }
        file.set_len(kept).map_err(io)?;
        file.seek(SeekFrom::Start(kept)).map_err(io)?;
        let path = path.to_owned();
        Ok((Self { file, path }, values))
    }

    /// Writes a line.
    pub(crate) fn append(&mut self, value: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(value).map_err(|error| TrainError::io(&self.path, error.into()))?;
        line.push(b'\n');
        let written = self.file.write_all(&line);
        written.map_err(|error| TrainError::io(&self.path, error))
    }
}

fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T, TrainError> {
    serde_json::from_str(text).map_err(|error| TrainError::Row {
        file: path.display().to_string(),
        line,
        reason: format!("expected a line as this program writes it: {error}"),
    })
}
