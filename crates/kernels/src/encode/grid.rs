//! The values that a block can take once its scales are chosen, so that choosing and rounding can be apart: what carries the
//! error of one input on to the next rounds them one after another.

use half::f16;

use super::bytes;
use super::fit::{Fit, Found, Shape};
use super::groups::{self, GroupFormat};
use crate::isa::Isa;
use crate::matrix::{BlockFormat, ShapeError};
use crate::simd::LANES;

/// What a grid is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Block(BlockFormat),
    Group(GroupFormat),
}

impl Encoding {
    /// Inputs of a block, or of a group that stands alone.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Block(format) => format.block_len(),
            Self::Group(format) => format.inputs,
        }
    }

    /// Models are brought to it while they are loaded.
    fn is_loaded(self) -> bool {
        use BlockFormat::{Q4_0, Q4_1, Q8_0};
        matches!(self, Self::Block(Q4_0 | Q4_1 | Q8_0))
    }
}

/// The values that the inputs of one block can take, and how the file keeps them.
///
/// Input i takes `step(i) * q + minimum(i)` with q in `0..=most()`. So does Q8_0 here: q counts from the lowest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    encoding: Encoding,
    most: u8,
    /// Inputs of a group are those that this shift brings to its index.
    shift: u32,
    steps: [f32; LANES],
    /// `1 / step`, 0 for 0.
    inverses: [f32; LANES],
    minima: [f32; LANES],
    /// Step and minimum, or what groups multiply.
    pub(super) units: [f16; 2],
    /// With two levels: what each group multiplies the units with.
    pub(super) factors: [[i8; LANES]; 2],
}

impl Grid {
    /// Chooses the grids of consecutive blocks such that the squared error of rounding to them, weighted with the importance of
    /// each input, is small. The importance is that of a row's inputs or a block's, of every row or block that `values` has;
    /// without, all count alike.
    ///
    /// # Errors
    /// An encoding that is not written here (see [`crate::encode_row`]), values that are no whole number of blocks or not finite,
    /// an importance that is none of the inputs of such blocks or below zero, or a block whose scales are too large for f16.
    pub fn fit(format: BlockFormat, values: &[f32], importance: Option<&[f32]>) -> Result<Vec<Self>, ShapeError> {
        let shape =
            Shape::of(format).ok_or_else(|| ShapeError(format!("no weights are rounded to {format:?} here")))?;
        Self::fit_shape(Encoding::Block(format), shape, values, importance)
    }

    pub(super) fn fit_shape(
        encoding: Encoding,
        shape: Shape,
        values: &[f32],
        importance: Option<&[f32]>,
    ) -> Result<Vec<Self>, ShapeError> {
        let block = encoding.block();
        check(block, values)?;
        let weights = weights(values.len(), block, importance)?;
        let mut grids = Vec::with_capacity(values.len() / block);
        let misfit = Isa::available()[0].run(Fit {
            encoding,
            shape,
            values,
            thorough: importance.is_some() || !encoding.is_loaded(),
            weights: &weights,
            to: &mut grids,
        });
        match misfit {
            None => Ok(grids),
            Some(index) => Err(too_large(block, index)),
        }
    }

    /// That of the block whose first group is in the given lane.
    pub(super) fn new(encoding: Encoding, shape: Shape, found: &Found, lane: usize) -> Self {
        let (group, groups) = (shape.group, encoding.block() / shape.group);
        // A block without groups is one, however many inputs it has.
        let shift = if groups == 1 {
            usize::BITS - 1
        } else {
            group.trailing_zeros()
        };
        let mut grid = Self {
            encoding,
            most: shape.most,
            shift,
            steps: [0.0; LANES],
            inverses: [0.0; LANES],
            minima: [0.0; LANES],
            units: [0, 1].map(|which| f16::from_f32(found.units[which][lane])),
            factors: [[0; LANES]; 2],
        };
        for index in 0..groups {
            let step = found.steps[lane + index];
            grid.steps[index] = step;
            grid.inverses[index] = if step == 0.0 { 0.0 } else { 1.0 / step };
            grid.minima[index] = found.minima[lane + index];
            for which in 0..2 {
                grid.factors[which][index] = found.factors[which][lane + index] as i8;
            }
        }
        grid
    }

    /// Distance between the values of an input; it may be negative.
    #[inline]
    pub fn step(&self, input: usize) -> f32 {
        self.steps[input >> self.shift]
    }

    /// The value of an input whose quant is 0.
    #[inline]
    pub fn minimum(&self, input: usize) -> f32 {
        self.minima[input >> self.shift]
    }

    /// The largest quant.
    #[inline]
    pub fn most(&self) -> u8 {
        self.most
    }

    /// The quant of an input whose value is nearest to the given one, ties to even, and that value as it will be decoded.
    #[inline]
    pub fn nearest(&self, input: usize, value: f32) -> (u8, f32) {
        let group = input >> self.shift;
        let (step, minimum) = (self.steps[group], self.minima[group]);
        let quant = ((value - minimum) * self.inverses[group])
            .max(0.0)
            .min(f32::from(self.most));
        // Adding 2^23 rounds to an integer, which then is in the lowest bits.
        let quant = (quant + 8_388_608.0).to_bits() as u8;
        (quant, step * f32::from(quant) + minimum)
    }

    /// Appends the block whose inputs have these quants.
    ///
    /// # Panics
    /// On another number of quants than the block has inputs.
    pub fn write(&self, quants: &[u8], to: &mut Vec<u8>) {
        assert_eq!(quants.len(), self.encoding.block(), "quants of one block");
        match self.encoding {
            Encoding::Block(format) => bytes::write(format, self, quants, to),
            Encoding::Group(format) => groups::write(format, quants, to),
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }
}

pub(super) fn too_large(block: usize, index: usize) -> ShapeError {
    let first = index * block;
    ShapeError(format!(
        "the {block} values from {first} on are too large for a scale as it is kept"
    ))
}

/// Values that are whole blocks and finite.
pub(super) fn check(block: usize, values: &[f32]) -> Result<(), ShapeError> {
    if !values.len().is_multiple_of(block) {
        let len = values.len();
        return Err(ShapeError(format!("expected values in blocks of {block}, got {len}")));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(ShapeError(format!("value {at} is {}, not a finite number", values[at]))),
        None => Ok(()),
    }
}

/// Weights of squared errors: the importance relative to the largest of its block, so that their sums stay within f32.
fn weights(len: usize, block: usize, importance: Option<&[f32]>) -> Result<Vec<f32>, ShapeError> {
    let Some(importance) = importance else {
        return Ok(vec![1.0; block]);
    };
    let inputs = importance.len();
    if inputs == 0 || !inputs.is_multiple_of(block) || !len.is_multiple_of(inputs) {
        return Err(ShapeError(format!(
            "expected the importance of all inputs of {len} values in blocks of {block}, got {inputs}"
        )));
    }
    if let Some(at) = importance.iter().position(|one| !(one.is_finite() && *one >= 0.0)) {
        let one = importance[at];
        return Err(ShapeError(format!(
            "the importance of input {at} is {one}, not a finite number from 0 on"
        )));
    }
    let relative = |block: &[f32]| {
        let largest = block.iter().fold(0f32, |a, b| a.max(*b));
        let divisor = if largest > 0.0 { largest } else { 1.0 };
        block.iter().map(move |one| one / divisor).collect::<Vec<_>>()
    };
    Ok(importance.chunks_exact(block).flat_map(relative).collect())
}
