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
use crate::checkpoint::roles::{NameTable, Place, Role};
use crate::checkpoint::shards::Shards;
use crate::files::{failed, write as write_file};
use crate::{ArchSpec, ModelError};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// A tensor as a folder keeps it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    name: String,
    /// As the file has it.
    shape: Vec<usize>,
    /// What lies in it, first rows first.
    roles: Vec<Role>,
    /// It is kept `[inputs, outputs]`.
    transposed: bool,
    /// Subtracted from every element.
    offset: f32,
}

/// The tensors of an architecture, where its family's names say that they are read from.
pub(super) fn stored(family: &'static Family, spec: &ArchSpec) -> Result<Vec<Stored>, Refusal> {
    let names = Names::new(family, spec, None, &Shards::default())?;
    let mut all: Vec<Stored> = Vec::new();
    for role in Role::all(spec) {
        let Place::Tensor(at) = names.place(role) else {
            return Err(Refusal::unsupported(format_args!("{role}: has no name in a folder")));
        };
        // Roles come in the order in which their rows lie in a tensor that they share.
        if let Some(known) = all.iter_mut().find(|known| known.name == at.name) {
            known.roles.push(role);
            continue;
        }
        let mut shape = role.shape(spec);
        if let (Some(part), Some(rows)) = (&at.part, shape.first_mut()) {
            *rows = part.of;
        }
        if at.transposed {
            shape.reverse();
        }
        all.push(Stored {
            name: at.name,
            shape,
            roles: vec![role],
            transposed: at.transposed,
            offset: at.offset,
        });
    }
    Ok(all)
}

impl Stored {
    pub(super) fn bytes(&self, float: FloatType) -> u64 {
        (self.shape.iter().product::<usize>() * float.bytes()) as u64
    }

    fn entry(&self, float: FloatType) -> Entry {
        Entry {
            name: self.name.clone(),
            dtype: float.name(),
            shape: self.shape.clone(),
            bytes: self.bytes(float) as usize,
        }
    }

    /// The elements as the file has them.
    fn values(&self, source: &dyn WeightSource) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(self.shape.iter().product());
        self.roles
            .iter()
            .try_for_each(|&role| source.append(role, &mut values))?;
        if self.transposed {
            let (inputs, outputs) = (self.shape[0], self.shape[1]);
            let at = |index: usize| values[index % outputs * inputs + index / outputs];
            values = (0..values.len()).map(at).collect();
        }
        if self.offset != 0.0 {
            values.iter_mut().for_each(|value| *value -= self.offset);
        }
        Ok(values)
    }
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
    tensors: &[Stored],
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
    let total: u64 = tensors.iter().map(|tensor| tensor.bytes(settings.float)).sum();
    let index: Value = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_file(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
}

/// Tensors file by file.
fn shards<'a>(tensors: &'a [Stored], settings: &SaveSettings<'_>) -> Vec<&'a [Stored]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let more = tensor.bytes(settings.float);
        if index > start && bytes + more > settings.shard_bytes {
            shards.push(&tensors[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += more;
    }
    shards.push(&tensors[start..]);
    shards
}

fn write_shard(path: &Path, tensors: &[Stored], source: &dyn WeightSource, float: FloatType) -> Result<(), ModelError> {
    let failed = failed(path);
    let entries: Vec<Entry> = tensors.iter().map(|tensor| tensor.entry(float)).collect();
    let file = File::create(path).map_err(&failed)?;
    let mut to = BufWriter::with_capacity(BUFFER, &file);
    to.write_all(&header(&entries, &[("format", "pt")])).map_err(&failed)?;
    for tensor in tensors {
        let values = tensor.values(source)?;
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
