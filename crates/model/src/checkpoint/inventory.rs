//! What the files of a checkpoint hold, as they hold it: for those who look at a model and do not run it.

use rootstock_formats::DType;

use super::{Checkpoint, Role, TextSource};

/// A tensor as a file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Type of its elements or blocks.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Bytes it takes in the file.
    pub bytes: u64,
}

impl Checkpoint {
    /// Every tensor, by name.
    pub fn file_tensors(&self) -> impl Iterator<Item = FileTensor<'_>> {
        self.tensors.shards().iter().map(|(name, info)| FileTensor {
            name,
            dtype: info.dtype,
            shape: &info.shape,
            bytes: info.range.len() as u64,
        })
    }

    /// Bytes of all files that hold tensors.
    pub fn file_bytes(&self) -> u64 {
        self.tensors.shards().file_bytes()
    }

    /// Weights of the model, each once, whatever they are stored in.
    pub fn parameters(&self) -> u64 {
        let spec = self.spec();
        let counts = Role::all(spec)
            .into_iter()
            .map(|role| role.shape(spec).iter().product::<usize>());
        counts.map(|count| count as u64).sum()
    }

    /// A text that the metadata of a GGUF file records; a folder has none.
    pub fn recorded(&self, key: &str) -> Option<&str> {
        match &self.text {
            TextSource::Gguf(gguf) => gguf.get_str(key).ok().flatten(),
            TextSource::Folder(_) => None,
        }
    }

    /// Bits that the tensors take for each weight, scales and whatever else belongs to an encoding included.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.file_tensors().map(|tensor| tensor.bytes).sum();
        bytes as f64 * 8.0 / self.parameters() as f64
    }
}
