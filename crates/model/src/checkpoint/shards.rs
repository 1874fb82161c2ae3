//! The files of a checkpoint as one table of tensors.

use std::collections::BTreeMap;

use rootstock_formats::TensorInfo;
use rootstock_formats::mmap::MappedFile;

use super::Refusal;

/// Mapped files and the tensors in them; no name occurs twice.
#[derive(Default)]
pub(super) struct Shards {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

impl Shards {
    /// Adds a file and its table.
    ///
    /// # Errors
    /// A tensor that an earlier file has too, or that lies beyond the file.
    pub(super) fn add(&mut self, file: MappedFile, tensors: BTreeMap<String, TensorInfo>) -> Result<(), Refusal> {
        let index = self.files.len();
        for (name, info) in tensors {
            if info.bytes(&file).is_none() {
                return Err(Refusal::unsupported(format_args!(
                    "tensor {name:?}: lies beyond its file"
                )));
            }
            if self.tensors.contains_key(&name) {
                return Err(Refusal::unsupported(format_args!(
                    "tensor {name:?}: expected in one file, got it in two"
                )));
            }
            self.tensors.insert(name, (index, info));
        }
        self.files.push(file);
        Ok(())
    }

    /// A tensor and its bytes.
    pub(super) fn tensor(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let (file, info) = self.tensors.get(name)?;
        Some((info, self.files[*file].get(info.range.clone())?))
    }

    /// Lets go of the pages that have been read.
    pub(super) fn release(&self) {
        self.files.iter().for_each(MappedFile::release);
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Every tensor, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, (_, info))| (name.as_str(), info))
    }

    /// Bytes of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Number of tensors.
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }
}
