//! A quantized module whose tensors were found: its codes, zero points, scales and groups.

use std::ops::Range;

use rootstock_formats::{DType, TensorInfo};

use super::layout::{Codes, Zeros, words};
use super::scheme::{Layout, Scheme};
use super::{Int4Place, SIZES};
use crate::checkpoint::Refusal;
use crate::checkpoint::shards::Shards;

/// A quantized matrix, its parts found.
pub(super) struct Module<'a> {
    pub(super) codes: Codes<'a>,
    pub(super) zeros: Zeros<'a>,
    pub(super) scales: Vec<f32>,
    /// Scales lie as `[outputs, groups]` rather than `[groups, outputs]`.
    scales_by_output: bool,
    pub(super) groups: Groups,
    /// Outputs of the whole module, and those of the role.
    pub(super) outputs: usize,
    pub(super) rows: Range<usize>,
    pub(super) cols: usize,
}

/// The group of each input.
pub(super) enum Groups {
    /// Groups of `size` inputs, one after another; `count` of them.
    InOrder { size: usize, count: usize },
    /// As the file lists them (act-order).
    Listed { of_input: Vec<usize>, count: usize },
}

impl Groups {
    /// The groups of `inputs` inputs.
    fn find(place: &Int4Place, shards: &Shards, inputs: usize) -> Result<Self, Refusal> {
        let Scheme { layout, ordered, .. } = place.scheme;
        let count = place.scheme.groups(inputs);
        let size = place.scheme.group_size.unwrap_or(inputs);
        let in_order = Self::InOrder { size, count };
        let Some(name) = layout.order().map(|suffix| place.tensor(suffix)) else {
            return Ok(in_order);
        };
        let (info, bytes) = match shards.tensor(&name) {
            Some(found) => found,
            None if ordered => find(shards, &name)?,
            None => return Ok(in_order),
        };
        if info.shape != [inputs] || !SIZES.contains(&info.dtype) {
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected I32 [{inputs}], got {} {:?}",
                info.dtype, info.shape
            )));
        }
        let group = |group: i64| usize::try_from(group).ok().filter(|group| *group < count);
        let of_input: Option<Vec<_>> = integers(info, bytes).into_iter().map(group).collect();
        match of_input {
            Some(of_input) if of_input.iter().enumerate().all(|(input, group)| input / size == *group) => Ok(in_order),
            Some(of_input) => Ok(Self::Listed { of_input, count }),
            None => Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected groups from 0 to {}",
                count - 1
            ))),
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::InOrder { count, .. } | Self::Listed { count, .. } => *count,
        }
    }

    pub(super) fn of(&self, input: usize) -> usize {
        match self {
            Self::InOrder { size, .. } => input / size,
            Self::Listed { of_input, .. } => of_input[input],
        }
    }
}

impl<'a> Module<'a> {
    /// The parts of the module, whose shapes were checked.
    pub(super) fn open(place: &Int4Place, shards: &'a Shards, [rows, cols]: [usize; 2]) -> Result<Self, Refusal> {
        let (scheme, outputs) = (place.scheme, place.outputs(rows));
        let layout = scheme.layout;
        let integers = |suffix: &str| Ok::<_, Refusal>(words(find(shards, &place.tensor(suffix))?.1));
        let packed = layout.zeros().filter(|_| layout != Layout::Packed || !scheme.symmetric);
        let packed = packed.map(|suffix| Ok::<_, Refusal>((layout, integers(suffix)?)));
        let (info, bytes) = find(shards, &place.tensor(layout.scales()))?;
        Ok(Self {
            codes: Codes::new(layout, scheme.bits, integers(layout.codes())?),
            zeros: Zeros {
                bits: scheme.bits,
                packed: packed.transpose()?,
            },
            scales: crate::weights::floats(info.dtype, bytes),
            scales_by_output: layout == Layout::Packed,
            groups: Groups::find(place, shards, cols)?,
            outputs,
            rows: place.part.as_ref().map_or(0..rows, |part| part.rows.clone()),
            cols,
        })
    }

    pub(super) fn scale(&self, row: usize, group: usize) -> f32 {
        let index = if self.scales_by_output {
            row * self.groups.count() + group
        } else {
            group * self.outputs + row
        };
        self.scales[index]
    }

    pub(super) fn zero(&self, row: usize, group: usize) -> u8 {
        self.zeros.at(row, group, self.outputs, self.groups.count())
    }
}

/// A tensor that must be there.
pub(super) fn find<'a>(shards: &'a Shards, name: &str) -> Result<(&'a TensorInfo, &'a [u8]), Refusal> {
    let missing = || Refusal::unsupported(format_args!("tensor {name} is missing"));
    shards.tensor(name).ok_or_else(missing)
}

/// Integers of a tensor of 64 or 32 bits.
pub(super) fn integers(info: &TensorInfo, bytes: &[u8]) -> Vec<i64> {
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
