//! Modules quantized to int4 or int8 by GPTQ, AWQ or compressed-tensors: several tensors that make up one matrix.
//!
//! All three keep codes of 4 bits (or 8, but for AWQ), one scale for each group of inputs of an output, and a zero point likewise:
//! `value = scale * (code - zero)`. They differ in how codes and zero points are packed into words ([`layout`]). The result
//! is a matrix of I4 blocks (Q8_0 for 8 bits around the middle) where each block of 32 inputs belongs to one group and every scale
//! is an f16, or else of single-precision numbers ([`blocks`]).

mod blocks;
mod layout;
mod module;
mod scheme;

use std::borrow::Cow;

use rootstock_formats::DType;

use self::module::{Module, find, integers};
use self::scheme::Layout;
pub(super) use self::scheme::{LEGACY_FILES, METHODS, Scheme};
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

const INTEGERS: &[DType] = &[DType::I32];
const FLOATS: &[DType] = &[DType::F16, DType::BF16, DType::F32];
const SIZES: &[DType] = &[DType::I64, DType::I32];

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
        let module = Module::open(self, shards, [rows, cols])?;
        if self.scheme.symmetric && !module.zeros.are_middle(module.outputs, module.groups.count()) {
            let middle = self.scheme.bits.middle();
            return Err(self.refuse(format_args!(
                "zero points are not all {middle}, but the quantization is stated to be symmetric (wrong checkpoint_format?)"
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

    /// The matrix as blocks of [`DType::I4`] or [`DType::Q8_0`], or as numbers where groups do not allow it.
    pub(in super::super) fn matrix(&self, shards: &Shards, shape: [usize; 2]) -> Result<MatrixView<'static>, Refusal> {
        let module = Module::open(self, shards, shape)?;
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
        let packed = |count: usize| count.div_ceil(self.scheme.bits.per_word());
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

    fn refuse(&self, reason: impl std::fmt::Display) -> Refusal {
        Refusal::unsupported(format_args!("module {}: {reason}", self.module))
    }
}
