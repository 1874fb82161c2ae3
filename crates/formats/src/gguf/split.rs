//! Files that hold one model in parts, as llama.cpp's gguf-split names and numbers them: `NAME-00002-of-00003.gguf`
//! with `split.no` from 0, and the metadata of the model in the first part alone.

use super::Gguf;
use crate::FormatError;

/// Most parts that the five digits of a name can count.
const MOST_PARTS: usize = 99_999;

/// Which part of a model a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Number from 0.
    pub number: usize,
    /// Parts in all, more than one.
    pub count: usize,
    /// Tensors in all parts together, where the file says so.
    pub tensors: Option<usize>,
}

impl Part {
    /// `NAME` of `NAME-00002-of-00003.gguf`, if `file_name` is what a part of this number is called.
    pub fn stem(self, file_name: &str) -> Option<&str> {
        file_name.strip_suffix(&self.suffix(self.number))
    }

    /// Name of the file with part `number` of the same model.
    pub fn file_name(self, stem: &str, number: usize) -> String {
        format!("{stem}{}", self.suffix(number))
    }

    fn suffix(self, number: usize) -> String {
        format!("-{:05}-of-{:05}.gguf", number + 1, self.count)
    }
}

impl Gguf {
    /// Which part of a model the file is; `None` if it holds the whole.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] if the numbers have another type or contradict each other.
    pub fn part(&self) -> Result<Option<Part>, FormatError> {
        let count = self.get_usize("split.count")?.unwrap_or(1);
        let number = self.get_usize("split.no")?;
        let tensors = self.get_usize("split.tensors.count")?;
        match number {
            _ if count > MOST_PARTS => Err(FormatError::malformed("split.count", "at most 99999 parts", count)),
            Some(number) if number >= count.max(1) => {
                let expected = format!("a part below split.count, {count}");
                Err(FormatError::malformed("split.no", expected, number))
            }
            _ if count <= 1 => Ok(None),
            Some(number) => Ok(Some(Part { number, count, tensors })),
            None => Err(FormatError::malformed(
                "split.no",
                "the number of the part",
                "no such key",
            )),
        }
    }
}
