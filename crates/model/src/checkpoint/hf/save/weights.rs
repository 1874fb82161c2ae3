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
use super::groups::Grouping;
use super::{FloatType, SaveSettings, WeightSource};
use crate::checkpoint::shards::Shards;
use crate::checkpoint::stored::{StoredTensor, stored as stored_tensors};
use crate::checkpoint::{EncodedSource, Refusal};
use crate::files::{failed, write as write_file};
use crate::{ArchSpec, ModelError};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// The tensors of an architecture, where its family's names say that they are read from.
pub(super) fn stored(family: &'static Family, spec: &ArchSpec) -> Result<Vec<StoredTensor>, Refusal> {
    stored_tensors(&Names::new(family, spec, None, &Shards::default())?, spec)
}

/// Where the weights of a folder come from, and how they are kept.
pub(super) struct Source<'a> {
    pub(super) weights: &'a dyn WeightSource,
    /// Maps of layers that are kept as integers.
    pub(super) grouped: Option<(Grouping, &'a mut dyn EncodedSource)>,
}

impl Source<'_> {
    /// The tensors that one of the model is kept as.
    fn entries(&self, tensor: &StoredTensor, float: FloatType) -> Vec<Entry> {
        match &self.grouped {
            Some((grouping, _)) if grouping.takes(tensor) => grouping.entries(tensor),
            _ => vec![entry(tensor, float)],
        }
    }

    fn bytes(&self, tensor: &StoredTensor, float: FloatType) -> u64 {
        let entries = self.entries(tensor, float);
        entries.iter().map(|entry| entry.bytes as u64).sum()
    }

    /// The bytes of a tensor that is kept as integers.
    fn integers(&mut self, tensor: &StoredTensor) -> Result<Option<Vec<u8>>, ModelError> {
        let Some((grouping, maps)) = self.grouped.as_mut().filter(|(grouping, _)| grouping.takes(tensor)) else {
            return Ok(None);
        };
        let mut blocks = Vec::new();
        for &(role, _) in &tensor.parts {
            blocks.extend(maps.encoded(role, grouping.dtype())?);
        }
        Ok(Some(grouping.tensors(tensor, &blocks)))
    }
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
    source: &mut Source<'_>,
    settings: &SaveSettings<'_>,
) -> Result<(), ModelError> {
    let shards = shards(tensors, source, settings);
    if let [only] = shards.as_slice() {
        return write_shard(&dir.join(WEIGHTS), only, source, settings.float);
    }
    let mut map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_shard(&dir.join(&name), shard, source, settings.float)?;
        let entries = shard.iter().flat_map(|tensor| source.entries(tensor, settings.float));
        map.extend(entries.map(|entry| (entry.name, name.clone().into())));
    }
    let total: u64 = tensors.iter().map(|tensor| source.bytes(tensor, settings.float)).sum();
    let index: Value = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_file(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
}

/// Tensors file by file.
fn shards<'a>(
    tensors: &'a [StoredTensor],
    source: &Source<'_>,
    settings: &SaveSettings<'_>,
) -> Vec<&'a [StoredTensor]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let more = source.bytes(tensor, settings.float);
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
    source: &mut Source<'_>,
    float: FloatType,
) -> Result<(), ModelError> {
    let failed = failed(path);
    let entries = tensors.iter().flat_map(|tensor| source.entries(tensor, float));
    let entries: Vec<Entry> = entries.collect();
    let file = File::create(path).map_err(&failed)?;
    let mut to = BufWriter::with_capacity(BUFFER, &file);
    to.write_all(&header(&entries, &[("format", "pt")])).map_err(&failed)?;
    for tensor in tensors {
        if let Some(bytes) = source.integers(tensor)? {
            to.write_all(&bytes).map_err(&failed)?;
            continue;
        }
        let values = values(tensor, source.weights)?;
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
