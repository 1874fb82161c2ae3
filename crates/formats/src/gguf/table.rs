//! The tensor table: names, types, shapes and places, checked against the file and against each other.

use std::collections::BTreeMap;

use super::{Cursor, types};
use crate::{DType, FormatError, TensorInfo};

/// Fewest bytes an entry takes: name length, number of dimensions, one dimension, type, offset.
pub(super) const SMALLEST_ENTRY: usize = 8 + 4 + 8 + 4 + 8;
/// ggml's limit on dimensions.
const MOST_DIMENSIONS: u32 = 4;

/// An entry before the start of the data is known.
struct Entry<'a> {
    name: &'a str,
    dtype: DType,
    shape: Vec<usize>,
    offset: u64,
}

pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: usize,
    alignment: usize,
) -> Result<BTreeMap<String, TensorInfo>, FormatError> {
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        entries.push(read_entry(cursor, index)?);
    }
    let data_start = cursor.position().next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for entry in entries {
        let range = place(&entry, data_start, alignment, cursor.file_len())?;
        let info = TensorInfo {
            dtype: entry.dtype,
            shape: entry.shape,
            range,
        };
        if tensors.insert(entry.name.to_owned(), info).is_some() {
            return Err(FormatError::malformed(
                format_args!("tensor {}", entry.name),
                "once",
                "twice",
            ));
        }
    }
    refuse_overlap(&tensors)?;
    Ok(tensors)
}

fn read_entry<'a>(cursor: &mut Cursor<'a>, index: usize) -> Result<Entry<'a>, FormatError> {
    let name = cursor.string(format_args!("name of tensor {index}"))?;
    let what = format_args!("dimensions of tensor {name}");
    let dimensions = cursor.u32(what)?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(FormatError::malformed(what, "1 to 4", dimensions));
    }
    let mut shape = Vec::with_capacity(MOST_DIMENSIONS as usize);
    for _ in 0..dimensions {
        let size = cursor.u64(what)?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(FormatError::malformed(what, "a size that is not zero", size)),
        }
    }
    // The file lists the innermost dimension first.
    shape.reverse();
    let dtype = read_dtype(cursor, name)?;
    let offset = cursor.u64(format_args!("offset of tensor {name}"))?;
    Ok(Entry {
        name,
        dtype,
        shape,
        offset,
    })
}

fn read_dtype(cursor: &mut Cursor<'_>, name: &str) -> Result<DType, FormatError> {
    let code = cursor.u32(format_args!("type of tensor {name}"))?;
    types::dtype(code, name)
}

/// The bytes of `entry` within the file.
fn place(
    entry: &Entry<'_>,
    data_start: usize,
    alignment: usize,
    file_len: usize,
) -> Result<std::ops::Range<usize>, FormatError> {
    let what = format_args!("tensor {}", entry.name);
    let Some(size) = entry.dtype.tensor_bytes(&entry.shape) else {
        let (block, _) = entry.dtype.block();
        let expected = format!("rows of whole {block}-element blocks and a size below 2^63");
        return Err(FormatError::malformed(
            what,
            expected,
            format_args!("{:?}", entry.shape),
        ));
    };
    if !entry.offset.is_multiple_of(alignment as u64) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(FormatError::malformed(what, expected, entry.offset));
    }
    let start = usize::try_from(entry.offset)
        .ok()
        .and_then(|offset| data_start.checked_add(offset));
    let range = start.and_then(|start| Some(start..start.checked_add(size)?));
    match range {
        Some(range) if range.end <= file_len => Ok(range),
        _ => Err(FormatError::malformed(
            what,
            format_args!(
                "{size} bytes at offset {} of the data, which starts at {data_start}",
                entry.offset
            ),
            format_args!("a file of {file_len} bytes (truncated file)"),
        )),
    }
}

fn refuse_overlap(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), FormatError> {
    let mut places: Vec<_> = tensors.iter().map(|(name, info)| (&info.range, name)).collect();
    places.sort_unstable_by_key(|(range, _)| range.start);
    for pair in places.windows(2) {
        let ((before, first), (after, second)) = (&pair[0], &pair[1]);
        if after.start < before.end {
            return Err(FormatError::malformed(
                format_args!("tensor {second}"),
                format_args!("data after that of {first}, which ends at {}", before.end),
                format_args!("data at {}", after.start),
            ));
        }
    }
    Ok(())
}
