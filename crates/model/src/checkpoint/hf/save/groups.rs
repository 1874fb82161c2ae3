//! Modules of integers in groups, as compressed-tensors and GPTQ keep them: the inverse of [`super::super::int4`], from blocks that
//! share the scale and the zero point of their group.

use rootstock_formats::DType;
use rootstock_formats::safetensors::write::Entry;
use rootstock_kernels::{ElementType, GroupFormat, ZeroPoint};
use serde_json::{Value, json};

use crate::checkpoint::{Role, StoredTensor};

/// Inputs of a block.
const BLOCK: usize = 32;
/// Bits of a word.
const WORD: usize = 32;

/// How the maps of layers are written as integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Names and places of a module's tensors.
    pub layout: GroupLayout,
    /// Of an integer: 4 or 8.
    pub bits: usize,
    /// Inputs that share a scale: a multiple of 32.
    pub group_size: usize,
    /// Zero is the middle of the integers.
    pub symmetric: bool,
}

/// Layouts of quantized modules that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupLayout {
    /// `pack-quantized` of compressed-tensors.
    CompressedTensors,
    /// GPTQ: of the first format if symmetric, which every reader knows; zero points of a group's own are in `gptq_v2`, since not
    /// all of them can be kept minus one.
    Gptq,
}

impl Grouping {
    /// Type of the blocks that a module is made of.
    pub fn dtype(&self) -> DType {
        if self.bits == 8 { DType::Q8_0 } else { DType::I4 }
    }

    /// How values are rounded to it.
    pub fn format(&self) -> GroupFormat {
        GroupFormat {
            inputs: self.group_size,
            bits: self.bits as u32,
            zero: if self.symmetric {
                ZeroPoint::Middle
            } else {
                ZeroPoint::OfGroup
            },
            scale: ElementType::F16,
        }
    }

    /// What is wrong with it.
    pub(super) fn misfit(&self) -> Option<String> {
        let Self { bits, group_size, .. } = *self;
        if bits != 4 && !(bits == 8 && self.symmetric) {
            return Some(format!("expected 4 bits, or 8 that are symmetric, got {bits}"));
        }
        let multiple = group_size > 0 && group_size.is_multiple_of(BLOCK);
        (!multiple).then(|| format!("expected groups of a multiple of {BLOCK} inputs, got {group_size}"))
    }

    /// Whether a tensor is written as a module.
    pub(super) fn takes(&self, tensor: &StoredTensor) -> bool {
        let is_map = is_map(tensor) && (!tensor.transposed || self.layout == GroupLayout::Gptq);
        is_map && shape(tensor)[1].is_multiple_of(self.group_size)
    }

    /// `quantization_config`, with modules that are no such ones.
    pub(super) fn config(&self, ignored: &[&str]) -> Value {
        let Self {
            bits,
            group_size,
            symmetric,
            ..
        } = *self;
        match self.layout {
            GroupLayout::CompressedTensors => json!({
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "quantization_status": "compressed",
                "config_groups": {"group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": bits,
                        "type": "int",
                        "symmetric": symmetric,
                        "strategy": "group",
                        "group_size": group_size,
                        "dynamic": false,
                    },
                }},
                "ignore": ignored,
            }),
            GroupLayout::Gptq => json!({
                "quant_method": "gptq",
                "bits": bits,
                "group_size": group_size,
                "sym": symmetric,
                "desc_act": false,
                "lm_head": false,
                "checkpoint_format": if self.is_minus_one() { "gptq" } else { "gptq_v2" },
            }),
        }
    }

    fn is_minus_one(&self) -> bool {
        self.symmetric
    }

    /// The tensors of a module.
    pub(super) fn entries(&self, tensor: &StoredTensor) -> Vec<Entry> {
        let [outputs, inputs] = shape(tensor);
        let groups = inputs / self.group_size;
        let packed = |count: usize| (count * self.bits).div_ceil(WORD);
        let entry = |suffix: &str, dtype: &'static str, shape: &[usize]| Entry {
            name: format!("{}.{suffix}", module(tensor)),
            dtype,
            shape: shape.to_vec(),
            bytes: shape.iter().product::<usize>() * width(dtype),
        };
        match self.layout {
            GroupLayout::Gptq => vec![
                entry("g_idx", "I32", &[inputs]),
                entry("qweight", "I32", &[packed(inputs), outputs]),
                entry("qzeros", "I32", &[groups, packed(outputs)]),
                entry("scales", "F16", &[groups, outputs]),
            ],
            GroupLayout::CompressedTensors => {
                let mut entries = vec![
                    entry("weight_packed", "I32", &[outputs, packed(inputs)]),
                    entry("weight_scale", "F16", &[outputs, groups]),
                    entry("weight_shape", "I64", &[2]),
                ];
                let zeros = || entry("weight_zero_point", "I32", &[packed(outputs), groups]);
                entries.extend((!self.symmetric).then(zeros));
                entries
            }
        }
    }

    /// The bytes of these tensors, in their order, from the module's rows as blocks.
    pub(super) fn tensors(&self, tensor: &StoredTensor, blocks: &[u8]) -> Vec<u8> {
        let [outputs, inputs] = shape(tensor);
        let module = Module::of(self, blocks, [outputs, inputs]);
        let groups = inputs / self.group_size;
        let mut words = Words {
            bits: self.bits,
            bytes: Vec::new(),
        };
        match self.layout {
            GroupLayout::Gptq => {
                let less = u8::from(self.is_minus_one());
                let order = (0..inputs).flat_map(|input| ((input / self.group_size) as u32).to_le_bytes());
                words.bytes.extend(order);
                words.down([inputs, outputs], |input, output| {
                    module.quants[output * inputs + input]
                });
                words.along([groups, outputs], |group, output| {
                    module.zeros[output * groups + group] - less
                });
                let scales = (0..groups).flat_map(|group| (0..outputs).map(move |output| output * groups + group));
                words.bytes.extend(scales.flat_map(|at| module.scales[at]));
            }
            GroupLayout::CompressedTensors => {
                words.along([outputs, inputs], |output, input| {
                    module.quants[output * inputs + input]
                });
                words.bytes.extend(module.scales.as_flattened());
                let shape = [outputs, inputs].map(|size| (size as i64).to_le_bytes());
                words.bytes.extend(shape.as_flattened());
                if !self.symmetric {
                    words.down([outputs, groups], |output, group| module.zeros[output * groups + group]);
                }
            }
        }
        words.bytes
    }
}

/// Whether a tensor holds nothing but maps of layers.
pub(super) fn is_map(tensor: &StoredTensor) -> bool {
    let mut roles = tensor.parts.iter().map(|(role, _)| role);
    tensor.is_matrix() && roles.all(|role| matches!(role, Role::Weight { .. }))
}

/// The module of a tensor that is its weight.
pub(super) fn module(tensor: &StoredTensor) -> &str {
    tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name)
}

/// Outputs and inputs.
fn shape(tensor: &StoredTensor) -> [usize; 2] {
    match *tensor.shape.as_slice() {
        [inputs, outputs] if tensor.transposed => [outputs, inputs],
        [outputs, inputs] => [outputs, inputs],
        _ => [0, 0],
    }
}

fn width(dtype: &str) -> usize {
    match dtype {
        "F16" => 2,
        "I64" => 8,
        _ => 4,
    }
}

/// What blocks hold, one by one: quants `[outputs, inputs]`, scales (f16) and zero points `[outputs, groups]`.
struct Module {
    quants: Vec<u8>,
    scales: Vec<[u8; 2]>,
    zeros: Vec<u8>,
}

impl Module {
    fn of(grouping: &Grouping, blocks: &[u8], [outputs, inputs]: [usize; 2]) -> Self {
        let groups = outputs * inputs / grouping.group_size;
        let mut module = Self {
            quants: Vec::with_capacity(outputs * inputs),
            scales: Vec::with_capacity(groups),
            zeros: Vec::with_capacity(groups),
        };
        let per_group = grouping.group_size / BLOCK;
        let (_, size) = grouping.dtype().block();
        for (index, block) in blocks.chunks_exact(size).enumerate() {
            let (zero, quants) = match grouping.bits {
                8 => (128, &block[2..]),
                _ => (block[2], &block[3..]),
            };
            if index % per_group == 0 {
                module.scales.push([block[0], block[1]]);
                module.zeros.push(zero);
            }
            if grouping.bits == 8 {
                module.quants.extend(quants.iter().map(|quant| quant.wrapping_add(128)));
            } else {
                module.quants.extend(quants.iter().map(|pair| pair & 15));
                module.quants.extend(quants.iter().map(|pair| pair >> 4));
            }
        }
        module
    }
}

/// Integers in words of 32 bits, the first in the lowest.
struct Words {
    bits: usize,
    bytes: Vec<u8>,
}

impl Words {
    /// A matrix whose rows are packed: `[rows, columns / per word]`.
    fn along(&mut self, [rows, columns]: [usize; 2], at: impl Fn(usize, usize) -> u8) {
        for row in 0..rows {
            for first in (0..columns).step_by(self.per_word()) {
                let end = (first + self.per_word()).min(columns);
                self.push((first..end).map(|column| at(row, column)));
            }
        }
    }

    /// A matrix whose columns are packed: `[rows / per word, columns]`.
    fn down(&mut self, [rows, columns]: [usize; 2], at: impl Fn(usize, usize) -> u8) {
        for first in (0..rows).step_by(self.per_word()) {
            let end = (first + self.per_word()).min(rows);
            for column in 0..columns {
                self.push((first..end).map(|row| at(row, column)));
            }
        }
    }

    fn per_word(&self) -> usize {
        WORD / self.bits
    }

    fn push(&mut self, codes: impl Iterator<Item = u8>) {
        let placed = codes
            .enumerate()
            .map(|(place, code)| u32::from(code) << (place * self.bits));
        let word = placed.fold(0, |word, code| word | code);
        self.bytes.extend(word.to_le_bytes());
    }
}
