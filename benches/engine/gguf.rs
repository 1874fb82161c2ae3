//! Writes GGUF files (version 3): models of random weights and adapters, so that peers read what we read.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rootstock_formats::gguf::{Array, Value};

const ALIGNMENT: u64 = 32;

/// A tensor of a file: its dimensions with the fastest first, and its type's number.
pub struct Tensor {
    pub name: String,
    pub dimensions: Vec<usize>,
    pub kind: u32,
    pub bytes: usize,
}

/// Writes a file; `fill` gives the bytes of the tensor at an index.
///
/// # Errors
/// The file cannot be written, or metadata holds an array this writer does not know.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Tensor],
    mut fill: impl FnMut(usize) -> Vec<u8>,
) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(b"GGUF")?;
    out.write_all(&3u32.to_le_bytes())?;
    out.write_all(&(tensors.len() as u64).to_le_bytes())?;
    out.write_all(&(metadata.len() as u64).to_le_bytes())?;
    for (key, value) in metadata {
        text(&mut out, key)?;
        pair(&mut out, value).with_context(|| key.clone())?;
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name)?;
        out.write_all(&(tensor.dimensions.len() as u32).to_le_bytes())?;
        for dimension in &tensor.dimensions {
            out.write_all(&(*dimension as u64).to_le_bytes())?;
        }
        out.write_all(&tensor.kind.to_le_bytes())?;
        out.write_all(&u64::to_le_bytes(offset))?;
        offset = (offset + tensor.bytes as u64).next_multiple_of(ALIGNMENT);
    }
    for index in 0..tensors.len() {
        pad(&mut out)?;
        out.write_all(&fill(index))?;
    }
    pad(&mut out)?;
    Ok(out.flush()?)
}

fn pad(out: &mut BufWriter<File>) -> Result<()> {
    let at = out.stream_position()?;
    out.write_all(&vec![0; (at.next_multiple_of(ALIGNMENT) - at) as usize])?;
    Ok(())
}

fn text(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    Ok(out.write_all(text.as_bytes())?)
}

/// A value's type and the value.
fn pair(out: &mut impl Write, value: &Value) -> Result<()> {
    let (kind, bytes): (u32, Vec<u8>) = match value {
        Value::U32(number) => (4, number.to_le_bytes().into()),
        Value::I32(number) => (5, number.to_le_bytes().into()),
        Value::F32(number) => (6, number.to_le_bytes().into()),
        Value::Bool(truth) => (7, vec![u8::from(*truth)]),
        Value::U64(number) => (10, number.to_le_bytes().into()),
        Value::String(content) => {
            out.write_all(&8u32.to_le_bytes())?;
            return text(out, content);
        }
        Value::Array(array) => {
            out.write_all(&9u32.to_le_bytes())?;
            return self::array(out, array);
        }
        other => anyhow::bail!("{other:?} is not written"),
    };
    out.write_all(&kind.to_le_bytes())?;
    Ok(out.write_all(&bytes)?)
}

fn array(out: &mut impl Write, array: &Array) -> Result<()> {
    let kind: u32 = match array {
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::String(_) => 8,
        _ => anyhow::bail!("an array of a kind that is not written"),
    };
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&(array.len() as u64).to_le_bytes())?;
    match array {
        Array::I32(items) => items
            .iter()
            .try_for_each(|item| Ok(out.write_all(&item.to_le_bytes())?)),
        Array::F32(items) => items
            .iter()
            .try_for_each(|item| Ok(out.write_all(&item.to_le_bytes())?)),
        Array::String(items) => items.iter().try_for_each(|item| text(out, item)),
        _ => Ok(()),
    }
}
