//! A GGUF LoRA file as llama.cpp reads it: `<base tensor>.lora_a` and `.lora_b`, one alpha for all. Its reader's scale is alpha
//! over the rank of each pair, so another scale (rsLoRA, alpha_pattern) goes into B.

use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use rootstock_formats::gguf::{Header, NewTensor, Value};
use rootstock_formats::peft::ModuleKind;
use rootstock_formats::{DType, PartFile};
use rootstock_kernels::{BlockFormat, encode_row};

use super::{ModulePair, commonest, module_pairs};
use crate::adapter::modules::{Map, Modules};
use crate::adapter::names::GgufArchitecture;
use crate::adapter::{Adapter, AdapterError, AdapterErrorCode as Code};
use crate::files::failed;
use crate::{ArchSpec, ModelError, Projection, RowOrder, Site};

/// What tensors are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
    /// 8 bits and a scale per 32 values of a row, and halves where a row is not whole blocks, as llama.cpp's converter does it.
    Q8_0,
}

/// The tensors of a file.
#[derive(Debug)]
pub struct GgufLora {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(NewTensor, Vec<u8>)>,
}

impl GgufLora {
    /// Brings an adapter for bases of the architecture `spec` into the form of the file.
    ///
    /// # Errors
    /// A family that llama.cpp has no names for, anything but low-rank pairs, pairs on the ends of a tie (the file has one name
    /// for both), or values that the type cannot hold.
    pub fn of(adapter: &Adapter, spec: &ArchSpec, stored: LoraType) -> Result<Self, AdapterError> {
        let Some(architecture) = GgufArchitecture::of_family(&spec.family) else {
            let message = format!("no names of GGUF tensors are known for the family {}", spec.family);
            return Err(AdapterError::new(Code::UnsupportedType, message));
        };
        let modules = Modules::new(&architecture.names, spec);
        let pairs = module_pairs(adapter, &modules, "a GGUF adapter")?;
        // A file whose alpha is 0 is read at scale 1.
        let alphas = pairs.iter().map(|(_, pair)| pair.alpha()).filter(|alpha| *alpha != 0.0);
        let alpha = commonest(alphas).unwrap_or(1.0) as f32;
        let mut tensors = Vec::new();
        for (map, pair) in &pairs {
            if spec.tied_output && map.kind != ModuleKind::Linear {
                return Err(tied(pair));
            }
            let mut pair = Floats::of(pair, alpha);
            if architecture.interleaved {
                pair.interleave(map, spec);
            }
            if map.kind == ModuleKind::Embedding {
                // llama.cpp looks rows of A up by token.
                pair.a = transposed(&pair.a, map.inputs);
                tensors.push(pair.tensor("a", [map.inputs, pair.rank], stored)?);
            } else {
                tensors.push(pair.tensor("a", [pair.rank, map.inputs], stored)?);
            }
            tensors.push(pair.tensor("b", [map.outputs, pair.rank], stored)?);
        }
        Ok(Self {
            metadata: metadata(architecture.name, adapter, alpha),
            tensors,
        })
    }

    /// Tensors of the file.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Writes the file. It has its name only when it is complete.
    ///
    /// # Errors
    /// Whatever keeps it from being written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let table: Vec<NewTensor> = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        let header = Header::new(&self.metadata, &table).map_err(|error| ModelError::Format {
            path: path.to_owned(),
            error,
        })?;
        let mut bytes = header.bytes;
        for (place, (_, values)) in header.places.iter().zip(&self.tensors) {
            bytes.resize(place.start, 0);
            bytes.extend(values);
        }
        let write = || -> io::Result<()> {
            let mut to = PartFile::create(path)?;
            to.write_all(&bytes)?;
            to.finish()
        };
        write().map_err(failed(path))
    }
}

fn metadata(architecture: &str, adapter: &Adapter, alpha: f32) -> Vec<(String, Value)> {
    let text = |key: &str, text: &str| (key.to_owned(), Value::String(text.to_owned()));
    let mut metadata = vec![
        text("general.type", "adapter"),
        text("general.architecture", architecture),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha)),
    ];
    if let Some(base) = &adapter.base_model {
        metadata.push(("general.base_model.count".to_owned(), Value::U32(1)));
        metadata.push(text("general.base_model.0.name", base));
    }
    metadata
}

/// A pair in f32, its scale that of the file.
struct Floats {
    name: String,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Floats {
    fn of(pair: &ModulePair, alpha: f32) -> Self {
        let mut b = pair.b.to_f32();
        if pair.alpha() as f32 != alpha {
            let ratio = (pair.alpha() / f64::from(alpha)) as f32;
            b.iter_mut().for_each(|value| *value *= ratio);
        }
        Self {
            name: pair.path.clone(),
            rank: pair.rank(),
            a: pair.a.to_f32(),
            b,
        }
    }

    /// Brings the rows of B into the order in which the file has those of the base.
    fn interleave(&mut self, map: &Map, spec: &ArchSpec) {
        for part in &map.parts {
            let Site::Layer {
                layer,
                projection: Projection::Query | Projection::Key,
            } = part.site
            else {
                continue;
            };
            let head_dim = spec.layers[layer].attention.head_dim;
            let order = RowOrder::InterleavedHalves { head_dim };
            let rows = part.outputs.start * self.rank..part.outputs.end * self.rank;
            let model = self.b[rows.clone()].to_vec();
            let file = &mut self.b[rows];
            for (row, values) in model.chunks_exact(self.rank).enumerate() {
                file[order.stored_row(row) * self.rank..][..self.rank].copy_from_slice(values);
            }
        }
    }

    /// One side as the file has it.
    fn tensor(&self, side: &str, shape: [usize; 2], stored: LoraType) -> Result<(NewTensor, Vec<u8>), AdapterError> {
        let values = if side == "a" { &self.a } else { &self.b };
        let name = format!("{}.weight.lora_{side}", self.name);
        let blocks = BlockFormat::Q8_0.block_len();
        let stored = match stored {
            LoraType::Q8_0 if !shape[1].is_multiple_of(blocks) => LoraType::F16,
            stored => stored,
        };
        let refuse = |what: String| AdapterError::new(Code::NotFinite, format_args!("tensor {name}: {what}"));
        let (dtype, bytes): (_, Vec<u8>) = match stored {
            LoraType::F32 => (
                DType::F32,
                values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ),
            LoraType::F16 => {
                let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
                    return Err(refuse(format!("{} is beyond f16; take another type", values[at])));
                }
                (DType::F16, halves.iter().flat_map(|half| half.to_le_bytes()).collect())
            }
            LoraType::Bf16 => {
                let words = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes());
                (DType::BF16, words.collect())
            }
            LoraType::Q8_0 => {
                let mut bytes = Vec::new();
                encode_row(BlockFormat::Q8_0, values, None, &mut bytes).map_err(|error| refuse(error.to_string()))?;
                (DType::Q8_0, bytes)
            }
        };
        let shape = shape.to_vec();
        Ok((NewTensor { name, dtype, shape }, bytes))
    }
}

/// `[cols, rows]` of `[rows, cols]`.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols.max(1);
    (0..values.len())
        .map(|at| values[at % rows * cols + at / rows])
        .collect()
}

fn tied(pair: &ModulePair) -> AdapterError {
    let message = format!(
        "{}: the base ties embedding and output layer, which are one tensor in GGUF, so that a pair on one of them cannot be told \
         from a pair on both; merge the adapter into its base (rootstock merge)",
        pair.path
    );
    AdapterError::new(Code::UnsupportedType, message)
}
