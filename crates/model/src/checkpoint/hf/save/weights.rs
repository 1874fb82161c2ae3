//! The files of weights: each tensor as transformers keeps it, read from the source when its turn comes, so that no more than
//! one stands in memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rootstock_formats::safetensors::write::{Entry, header};
use serde_json::{Map, Value, json};

use super::super::family::Family;
use super::super::folder::{INDEX, WEIGHTS};
use super::super::names::Names;
use super::{FloatType, SaveSettings, WeightSource};
use crate::checkpoint::Refusal;
use crate::checkpoint::shards::Shards;
use crate::checkpoint::stored::{StoredTensor, stored as stored_tensors};
use crate::files::{failed, write as write_file};
use crate::{ArchSpec, ModelError};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// The tensors of an architecture, where its family's names say that they are read from.
pub(super) fn stored(family: &'static Family, spec: &ArchSpec) -> Result<Vec<StoredTensor>, Refusal> {
    stored_tensors(&Names::new(family, spec, None, &Shards::default())?, spec)
}

/// Bytes of a tensor in a file.
pub(super) fn bytes(tensor: &StoredTensor, float: FloatType) -> u64 {
    (tensor.elements() * float.bytes()) as u64
}

fn entry(tensor: &StoredTensor, float: FloatType) -> Entry {
    Entry {
        name: tensor.name.clone(),
        dtype: float.name(),
        shape: tensor.shape.clone(),
        bytes: bytes(tensor, float) as usize,
    }
}

/// The elements of a tensor as the file has them.
fn values(tensor: &StoredTensor, source: &dyn WeightSource) -> Result<Vec<f32>, ModelError> {
    let mut values = Vec::with_capacity(tensor.elements());
    let mut roles = tensor.parts.iter();
    roles.try_for_each(|&(role, _)| source.append(role, &mut values))?;
    if tensor.transposed {
        let (inputs, outputs) = (tensor.shape[0], tensor.shape[1]);
        let at = |index: usize| values[index % outputs * inputs + index / outputs];
        values = (0..values.len()).map(at).collect();
    }
    if tensor.offset != 0.0 {
        values.iter_mut().for_each(|value| *value -= tensor.offset);
    }
    Ok(values)
}

impl FloatType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// As headers of safetensors files spell it.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Whether a value stays finite.
    fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => value.is_finite(),
            Self::F16 => f16::from_f32(value).is_finite(),
            Self::Bf16 => bf16::from_f32(value).is_finite(),
        }
    }

    fn write(self, values: &[f32], to: &mut impl Write) -> std::io::Result<()> {
        values.iter().try_for_each(|&value| match self {
            Self::F32 => to.write_all(&value.to_le_bytes()),
            Self::F16 => to.write_all(&f16::from_f32(value).to_le_bytes()),
            Self::Bf16 => to.write_all(&bf16::from_f32(value).to_le_bytes()),
        })
    }
}

/// Writes all tensors, in one file or with an index in several.
pub(super) fn write(
    dir: &Path,
    tensors: &[StoredTensor],
    source: &dyn WeightSource,
    settings: &SaveSettings<'_>,
) -> Result<(), ModelError> {
    let shards = shards(tensors, settings);
    if let [only] = shards.as_slice() {
        return write_shard(&dir.join(WEIGHTS), only, source, settings.float);
    }
    let mut map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_shard(&dir.join(&name), shard, source, settings.float)?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone().into())));
    }
    let total: u64 = tensors.iter().map(|tensor| bytes(tensor, settings.float)).sum();
    let index: Value = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_file(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
}

/// Tensors file by file.
fn shards<'a>(tensors: &'a [StoredTensor], settings: &SaveSettings<'_>) -> Vec<&'a [StoredTensor]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let more = bytes(tensor, settings.float);
        if index > start && size + more > settings.shard_bytes {
            shards.push(&tensors[start..index]);
            (start, size) = (index, 0);
        }
        size += more;
    }
    shards.push(&tensors[start..]);
    shards
}

fn write_shard(
    path: &Path,
    tensors: &[StoredTensor],
    source: &dyn WeightSource,
    float: FloatType,
) -> Result<(), ModelError> {
    let failed = failed(path);
    let entries: Vec<Entry> = tensors.iter().map(|tensor| entry(tensor, float)).collect();
    let file = File::create(path).map_err(&failed)?;
    let mut to = BufWriter::with_capacity(BUFFER, &file);
    to.write_all(&header(&entries, &[("format", "pt")])).map_err(&failed)?;
    for tensor in tensors {
        let values = values(tensor, source)?;
        if let Some(&value) = values.iter().find(|value| !float.holds(**value)) {
            let reason = format!(
                "tensor {}: expected values that {} holds, got {value}",
                tensor.name,
                float.torch_name()
            );
            let path = path.to_owned();
            return Err(ModelError::Unsupported { path, reason });
        }
        float.write(&values, &mut to).map_err(&failed)?;
    }
    to.flush().and_then(|()| file.sync_all()).map_err(&failed)
}
