//! Where a tensor lies in a file; the same for every container format.

use std::ops::Range;

use crate::DType;

/// A tensor of a file: type, shape and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element or block type.
    pub dtype: DType,
    /// Dimensions, outermost first; quantized blocks run along the last.
    pub shape: Vec<usize>,
    /// Bytes within the whole file, checked against its length.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// The tensor's bytes within `file`; `None` if `file` is shorter than the one that was parsed.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        file.get(self.range.clone())
    }
}
