//! A reading position in a GGUF file: every read is checked against what is left.

use std::fmt::Display;

use crate::FormatError;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    file_len: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of `bytes`, which are the start of a file of `file_len` bytes.
    pub(super) fn new(bytes: &'a [u8], file_len: usize) -> Self {
        let position = 0;
        Self {
            bytes,
            position,
            file_len,
        }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Length of the whole file.
    pub(super) fn file_len(&self) -> usize {
        self.file_len
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn take(&mut self, count: usize, what: impl Display) -> Result<&'a [u8], FormatError> {
        let end = self.position.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.position..end)) {
            Some(taken) => {
                self.position += count;
                Ok(taken)
            }
            None => Err(FormatError::malformed(
                what,
                format_args!("{count} bytes at offset {}", self.position),
                format_args!("{} bytes (truncated file)", self.remaining()),
            )),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: impl Display) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: impl Display) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of items that follow, of at least `smallest` bytes each: what the file cannot hold is refused before
    /// anything is allocated for it.
    pub(super) fn count(&mut self, what: impl Display, smallest: usize) -> Result<usize, FormatError> {
        let count = self.u64(&what)?;
        let most = self.remaining() / smallest;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(FormatError::malformed(
                what,
                format_args!("at most {most} in the {} bytes left", self.remaining()),
                count,
            )),
        }
    }

    /// A length-prefixed UTF-8 string.
    pub(super) fn string(&mut self, what: impl Display) -> Result<&'a str, FormatError> {
        let length = self.count(&what, 1)?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|error| FormatError::malformed(what, "UTF-8", error))
    }
}
