//! Integers with one scale for a group of inputs, as compressed-tensors, GPTQ, AWQ and ONNX's MatMulNBits keep them: the same
//! grids as those of blocks, with a zero point that is an integer.

use super::bytes;
use super::fit::Shape;
use super::grid::{Encoding, Grid};
use crate::element::ElementType;
use crate::matrix::{BLOCK, BlockFormat, ShapeError};

/// How a group's inputs are kept: `scale * (q - zero)`, q from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFormat {
    /// Inputs of a group: a multiple of 16.
    pub inputs: usize,
    /// Of a quant: 4 or 8.
    pub bits: u32,
    /// The quant that stands for zero.
    pub zero: ZeroPoint,
    /// How the scale is kept.
    pub scale: ElementType,
}

/// The quant that stands for zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPoint {
    /// Half of the quants: 8 of 16, 128 of 256. Scales are positive, so there is a value more below zero.
    Middle,
    /// The same, and a negative scale has the value more above zero: what MatMulNBits takes.
    MiddleOfEitherSign,
    /// One of each group's own.
    OfGroup,
}

impl GroupFormat {
    /// The blocks of 32 inputs that hold such groups, several with the same scale and zero point: I4 for 4 bits, Q8_0 for 8 bits
    /// around the middle; `None` for groups that fit neither. Models in them are run and measured as any others.
    pub fn blocks(self) -> Option<BlockFormat> {
        match (self.bits, self.zero) {
            _ if self.scale != ElementType::F16 || !self.inputs.is_multiple_of(BLOCK) => None,
            (4, _) => Some(BlockFormat::I4),
            (8, ZeroPoint::Middle | ZeroPoint::MiddleOfEitherSign) => Some(BlockFormat::Q8_0),
            _ => None,
        }
    }

    fn checked(self) -> Result<Self, ShapeError> {
        let Self { inputs, bits, .. } = self;
        if inputs == 0 || !inputs.is_multiple_of(16) {
            return Err(ShapeError(format!(
                "expected groups of a multiple of 16 inputs, got {inputs}"
            )));
        }
        if bits != 4 && bits != 8 {
            return Err(ShapeError(format!("expected integers of 4 or 8 bits, got {bits}")));
        }
        Ok(self)
    }
}

impl Grid {
    /// As [`Grid::fit`] for consecutive groups. What [`Grid::write`] appends of one are its quants alone: bytes, or nibbles, the
    /// earlier input in the low one.
    ///
    /// # Errors
    /// Another number of bits or of inputs than there are, and those of [`Grid::fit`].
    pub fn fit_groups(
        format: GroupFormat,
        values: &[f32],
        importance: Option<&[f32]>,
    ) -> Result<Vec<Self>, ShapeError> {
        let shape = Shape::of_groups(format.checked()?);
        Self::fit_shape(Encoding::Group(format), shape, values, importance)
    }

    /// Appends a group as the blocks that [`GroupFormat::blocks`] says.
    ///
    /// # Panics
    /// On a grid that is not of groups which have such blocks, and on another number of quants than the group has inputs.
    pub fn write_blocks(&self, quants: &[u8], to: &mut Vec<u8>) {
        assert_eq!(quants.len(), self.encoding().block(), "quants of one group");
        let format = match self.encoding() {
            Encoding::Group(format) => format.blocks(),
            Encoding::Block(_) => None,
        };
        assert!(format.is_some(), "groups that have blocks, got {:?}", self.encoding());
        for quants in quants.chunks_exact(BLOCK) {
            to.extend(self.units[0].to_le_bytes());
            if format == Some(BlockFormat::I4) {
                to.push(self.zero_point());
                bytes::halves(quants, to);
            } else {
                to.extend(quants.iter().map(|quant| quant.wrapping_sub(128)));
            }
        }
    }

    /// The quant that stands for zero; of no meaning where there is none.
    pub fn zero_point(&self) -> u8 {
        match self.encoding() {
            Encoding::Group(GroupFormat {
                zero: ZeroPoint::Middle | ZeroPoint::MiddleOfEitherSign,
                bits,
                ..
            }) => 1 << (bits - 1),
            _ => self.nearest(0, 0.0).0,
        }
    }
}

/// Appends the quants of a group.
pub(super) fn write(format: GroupFormat, quants: &[u8], to: &mut Vec<u8>) {
    match format.bits {
        4 => to.extend(quants.chunks_exact(2).map(|pair| pair[0] & 15 | pair[1] << 4)),
        _ => to.extend(quants),
    }
}

#[cfg(test)]
mod tests;
