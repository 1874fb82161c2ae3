//! Modules quantized to int4 by GPTQ, AWQ or compressed-tensors: several tensors that make up one matrix.
//!
//! All three keep codes of 4 bits, one scale for each group of inputs of an output, and a zero point likewise:
//! `value = scale * (code - zero)`. They differ in how codes and zero points are packed into words ([`layout`]). The result
//! is a matrix of I4 blocks where each block of 32 inputs belongs to one group and every scale is an f16, or else of
//! single-precision numbers ([`blocks`]).

mod blocks;
mod layout;
mod scheme;

use std::borrow::Cow;
use std::ops::Range;

use rootstock_formats::{DType, TensorInfo};

use self::layout::{Codes, Zeros, words};
use self::scheme::Layout;
pub(super) use self::scheme::{LEGACY_FILES, Scheme};
use super::super::Refusal;
use super::super::roles::Part;
use super::super::shards::Shards;
use crate::{MatrixView, RowOrder};

/// Where the matrix of a role lies among the tensors of a quantized module.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Int4Place {
    /// Path of the module, e.g. `model.layers.0.self_attn.q_proj`.
    pub(in super::super) module: String,
    /// How it is quantized.
    pub(super) scheme: Scheme,
    /// Rows (outputs) of the role within a module that several roles share.
    pub(super) part: Option<Part>,
}

/// A tensor that a module needs.
struct Needed {
    name: String,
    shape: Vec<usize>,
    types: &'static [DType],
}

/// A quantized matrix, its parts found.
struct Module<'a> {
    codes: Codes<'a>,
    zeros: Zeros<'a>,
    scales: Vec<f32>,
    /// Scales lie as `[outputs, groups]` rather than `[groups, outputs]`.
    scales_by_output: bool,
    groups: Groups,
    /// Outputs of the whole module, and those of the role.
    outputs: usize,
    rows: Range<usize>,
    cols: usize,
}

/// The group of each input.
enum Groups {
    /// Groups of `size` inputs, one after another; `count` of them.
    InOrder { size: usize, count: usize },
    /// As the file lists them (act-order).
    Listed { of_input: Vec<usize>, count: usize },
}

const INTEGERS: &[DType] = &[DType::I32];
const FLOATS: &[DType] = &[DType::F16, DType::BF16, DType::F32];
const SIZES: &[DType] = &[DType::I64, DType::I32];
/// The zero point of symmetric codes.
const MIDDLE: u8 = 8;

impl Int4Place {
    /// Checks types and shapes of the module's tensors against the shape of the role, `[outputs, inputs]`.
    pub(in super::super) fn check(&self, shards: &Shards, shape: &[usize]) -> Result<(), Refusal> {
        let &[rows, cols] = shape else {
            return Err(self.refuse(format_args!("shape {shape:?} is not that of a matrix")));
        };
        self.needed([rows, cols])
            .iter()
            .try_for_each(|needed| self.check_needed(shards, needed))?;
        self.check_stated_shape(shards, [rows, cols])?;
        let module = self.open(shards, [rows, cols])?;
        if self.scheme.symmetric && !module.zeros.are_all(MIDDLE, module.outputs, module.groups.count()) {
            return Err(self.refuse(format_args!(
                "zero points are not all {MIDDLE}, but the quantization is stated to be symmetric (wrong checkpoint_format?)"
            )));
        }
        Ok(())
    }

    /// Names of the module's tensors.
    pub(in super::super) fn tensors(&self, shards: &Shards) -> Vec<String> {
        let needed = self.needed([0, 0]).into_iter().map(|needed| needed.name);
        let order = self.scheme.layout.order().map(|suffix| self.tensor(suffix));
        needed
            .chain(order)
            .filter(|name| shards.tensor(name).is_some())
            .collect()
    }

    /// The matrix as blocks of [`DType::I4`], or as numbers where groups do not allow it.
    pub(in super::super) fn matrix(&self, shards: &Shards, shape: [usize; 2]) -> Result<MatrixView<'static>, Refusal> {
        let module = self.open(shards, shape)?;
        if let Some(index) = module.scales.iter().position(|scale| !scale.is_finite()) {
            let name = self.tensor(self.scheme.layout.scales());
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected finite values, got NaN or infinity at {index}"
            )));
        }
        let (dtype, bytes) = blocks::encode(&module);
        Ok(MatrixView {
            dtype,
            rows: shape[0],
            cols: shape[1],
            bytes: Cow::Owned(bytes),
            row_order: RowOrder::Natural,
        })
    }

    fn outputs(&self, rows: usize) -> usize {
        self.part.as_ref().map_or(rows, |part| part.of)
    }

    fn tensor(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.module)
    }

    /// The tensors of the module but for the order of its inputs, which it may lack.
    fn needed(&self, [rows, cols]: [usize; 2]) -> Vec<Needed> {
        let (outputs, groups) = (self.outputs(rows), self.scheme.groups(cols));
        let packed = |count: usize| count.div_ceil(layout::PER_WORD);
        let tensors: Vec<(_, [usize; 2], _)> = match self.scheme.layout {
            Layout::Gptq { .. } => vec![
                ("qweight", [packed(cols), outputs], INTEGERS),
                ("qzeros", [groups, packed(outputs)], INTEGERS),
                ("scales", [groups, outputs], FLOATS),
            ],
            Layout::Awq => vec![
                ("qweight", [cols, packed(outputs)], INTEGERS),
                ("qzeros", [groups, packed(outputs)], INTEGERS),
                ("scales", [groups, outputs], FLOATS),
            ],
            Layout::Packed if self.scheme.symmetric => vec![
                ("weight_packed", [outputs, packed(cols)], INTEGERS),
                ("weight_scale", [outputs, groups], FLOATS),
            ],
            Layout::Packed => vec![
                ("weight_packed", [outputs, packed(cols)], INTEGERS),
                ("weight_scale", [outputs, groups], FLOATS),
                ("weight_zero_point", [packed(outputs), groups], INTEGERS),
            ],
        };
        let needed = |(suffix, shape, types): (&str, [usize; 2], _)| Needed {
            name: self.tensor(suffix),
            shape: shape.to_vec(),
            types,
        };
        let shape = self.scheme.layout.shape().map(|suffix| Needed {
            name: self.tensor(suffix),
            shape: vec![2],
            types: SIZES,
        });
        tensors.into_iter().map(needed).chain(shape).collect()
    }

    fn check_needed(&self, shards: &Shards, needed: &Needed) -> Result<(), Refusal> {
        let Needed { name, shape, types } = needed;
        let (info, _) = find(shards, name)?;
        if info.shape != *shape || !types.contains(&info.dtype) {
            let types: Vec<_> = types.iter().map(DType::to_string).collect();
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected {} {shape:?}, got {} {:?}",
                types.join(" or "),
                info.dtype,
                info.shape
            )));
        }
        Ok(())
    }

    /// `weight_shape` repeats the shape.
    fn check_stated_shape(&self, shards: &Shards, [rows, cols]: [usize; 2]) -> Result<(), Refusal> {
        let Some(suffix) = self.scheme.layout.shape() else {
            return Ok(());
        };
        let name = self.tensor(suffix);
        let (info, bytes) = find(shards, &name)?;
        let (expected, stated) = (vec![self.outputs(rows) as i64, cols as i64], integers(info, bytes));
        if stated != expected {
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected {expected:?}, got {stated:?}"
            )));
        }
        Ok(())
    }

    /// The parts of the module, whose shapes were checked.
    fn open<'a>(&self, shards: &'a Shards, [rows, cols]: [usize; 2]) -> Result<Module<'a>, Refusal> {
        let layout = self.scheme.layout;
        let outputs = self.outputs(rows);
        let integers = |suffix: &str| Ok::<_, Refusal>(words(find(shards, &self.tensor(suffix))?.1));
        let zeros = match layout
            .zeros()
            .filter(|_| layout != Layout::Packed || !self.scheme.symmetric)
        {
            Some(suffix) => Zeros::Packed(layout, integers(suffix)?),
            None => Zeros::Middle,
        };
        let (info, bytes) = find(shards, &self.tensor(layout.scales()))?;
        Ok(Module {
            codes: Codes::new(layout, integers(layout.codes())?),
            zeros,
            scales: floats(info, bytes),
            scales_by_output: layout == Layout::Packed,
            groups: self.groups(shards, cols)?,
            outputs,
            rows: self.part.as_ref().map_or(0..rows, |part| part.rows.clone()),
            cols,
        })
    }

    fn groups(&self, shards: &Shards, cols: usize) -> Result<Groups, Refusal> {
        let count = self.scheme.groups(cols);
        let size = self.scheme.group_size.unwrap_or(cols);
        let in_order = Groups::InOrder { size, count };
        let name = self.scheme.layout.order().map(|suffix| self.tensor(suffix));
        let Some((name, (info, bytes))) = name.and_then(|name| Some((name.clone(), shards.tensor(&name)?))) else {
            return Ok(in_order);
        };
        if info.shape != [cols] || !SIZES.contains(&info.dtype) {
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected I32 [{cols}], got {} {:?}",
                info.dtype, info.shape
            )));
        }
        let group = |group: i64| usize::try_from(group).ok().filter(|group| *group < count);
        let of_input: Option<Vec<_>> = integers(info, bytes).into_iter().map(group).collect();
        match of_input {
            Some(of_input) if of_input.iter().enumerate().all(|(input, group)| input / size == *group) => Ok(in_order),
            Some(of_input) => Ok(Groups::Listed { of_input, count }),
            None => Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected groups from 0 to {}",
                count - 1
            ))),
        }
    }

    fn refuse(&self, reason: impl std::fmt::Display) -> Refusal {
        Refusal::unsupported(format_args!("module {}: {reason}", self.module))
    }
}

impl Groups {
    fn count(&self) -> usize {
        match self {
            Self::InOrder { count, .. } | Self::Listed { count, .. } => *count,
        }
    }

    fn of(&self, input: usize) -> usize {
        match self {
            Self::InOrder { size, .. } => input / size,
            Self::Listed { of_input, .. } => of_input[input],
        }
    }
}

impl Module<'_> {
    fn scale(&self, row: usize, group: usize) -> f32 {
        let index = if self.scales_by_output {
            row * self.groups.count() + group
        } else {
            group * self.outputs + row
        };
        self.scales[index]
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        self.zeros.at(row, group, self.outputs, self.groups.count())
    }
}

fn find<'a>(shards: &'a Shards, name: &str) -> Result<(&'a TensorInfo, &'a [u8]), Refusal> {
    let missing = || Refusal::unsupported(format_args!("tensor {name} is missing"));
    shards.tensor(name).ok_or_else(missing)
}

/// Integers of a tensor of [`SIZES`].
fn integers(info: &TensorInfo, bytes: &[u8]) -> Vec<i64> {
    match info.dtype {
        DType::I64 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| i64::from_le_bytes(value))
            .collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| i64::from(i32::from_le_bytes(value)))
            .collect(),
    }
}

/// Numbers of a tensor of [`FLOATS`].
fn floats(info: &TensorInfo, bytes: &[u8]) -> Vec<f32> {
    match info.dtype {
        DType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| half::f16::from_le_bytes(value).to_f32())
            .collect(),
        DType::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| half::bf16::from_le_bytes(value).to_f32())
            .collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect(),
    }
}
