//! The rows that enter a product, rounded to int8 per block of 32, in coarse groups of 256, or kept in f32.

mod coarse;

use crate::matrix::BLOCK;
use crate::simd::{LANES, Simd};

pub(crate) use coarse::{COARSE_GROUP, CoarseRows, CoarseTile, CoarseWriter, HIGH, STEP, TILE_ROWS};

/// Precision of the activations that enter a quantized product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// int8 with one f32 scale per block of 32, or in coarse groups (see [`crate::Source::coarse_from`]).
    Int8,
    /// f32; slow, for checking.
    F32,
}

/// Rows of `width` activations: rounded with [`Precision::Int8`], and in f32 where something reads that.
pub struct Activations {
    precision: Precision,
    rows: usize,
    width: usize,
    /// In f32, if they are kept.
    pub(crate) values: Vec<f32>,
    kept: bool,
    /// Of the rows before the coarse ones.
    pub(crate) quants: Vec<i8>,
    pub(crate) blocks: Vec<BlockScale>,
    pub(crate) coarse: CoarseRows,
}

/// What a block of 32 rounded activations needs beside its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct BlockScale {
    /// Value of one step.
    pub scale: f32,
    /// Sum of the block's values, as the rounded ones give it.
    pub scaled_sum: f32,
    /// Sum of the rounded values.
    pub sum: i32,
    /// Sum of the first half of them.
    pub low: i32,
}

impl BlockScale {
    /// Sum of the rounded values of one of the block's `groups` (1 or 2).
    #[inline(always)]
    pub(crate) fn sum_of(&self, group: usize, groups: usize) -> i32 {
        match (group, groups) {
            (_, 1) => self.sum,
            (0, _) => self.low,
            _ => self.sum - self.low,
        }
    }

    /// Sum of the values of one of the block's `groups`, as the rounded ones give it.
    #[inline(always)]
    pub(crate) fn scaled_sum_of(&self, group: usize, groups: usize) -> f32 {
        if groups == 1 {
            self.scaled_sum
        } else {
            self.scale * self.sum_of(group, groups) as f32
        }
    }
}

/// Largest magnitude that the rounded values of a block sum up to.
const LARGEST_SUM: f32 = (BLOCK * 127) as f32;

impl BlockScale {
    /// For `values` that do not round: NaN where one of them is not finite, so that the row's products show it; else they
    /// are too small for a step (127 / largest overflows below 4e-37) and count as zeros.
    #[cold]
    fn without_steps(values: &[f32]) -> Self {
        let finite = values.iter().all(|value| value.is_finite());
        let scale = if finite { 0.0 } else { f32::NAN };
        Self {
            scale,
            scaled_sum: scale,
            sum: 0,
            low: 0,
        }
    }
}

impl Activations {
    /// Empty; grows to what is put in and keeps its memory.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            rows: 0,
            width: 0,
            values: Vec::new(),
            kept: false,
            quants: Vec::new(),
            blocks: Vec::new(),
            coarse: CoarseRows::default(),
        }
    }

    /// How the rows are kept.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The first row that is rounded in coarse groups; as many as there are rows for none.
    pub(crate) fn coarse_from(&self) -> usize {
        self.rows - self.coarse.rows()
    }

    /// The rows in f32.
    ///
    /// # Panics
    /// If they were not kept.
    pub(crate) fn values(&self) -> &[f32] {
        assert!(self.kept, "the product wants its input in f32, see `Source::keep`");
        &self.values[..self.rows * self.width]
    }

    /// Room for `rows` rows, those from `coarse_from` on in coarse groups, and for all of them in f32 to `keep` them.
    pub(crate) fn resize(&mut self, rows: usize, width: usize, coarse_from: usize, keep: bool) {
        assert!(
            width.is_multiple_of(BLOCK),
            "activations come in blocks of {BLOCK}, got {width}"
        );
        let Some(len) = rows.checked_mul(width) else {
            panic!("{rows} rows of {width} activations are beyond counting");
        };
        // The products trust the shape: it must not promise more than there is where memory runs out below.
        (self.rows, self.width) = (0, 0);
        self.coarse.resize(0, width);
        self.kept = keep;
        if keep {
            grow(&mut self.values, len, 0.0);
        }
        if self.precision == Precision::Int8 {
            let fine = rows.min(coarse_from);
            grow(&mut self.quants, fine * width, 0);
            grow(&mut self.blocks, fine * width / BLOCK, BlockScale::default());
            self.coarse.resize(rows - fine, width);
        }
        (self.rows, self.width) = (rows, width);
    }
}

/// At least `len` elements. Nothing is cleared: rows of one width follow those of another in every layer.
fn grow<T: Copy>(vector: &mut Vec<T>, len: usize, fill: T) {
    vector.resize(len.max(vector.len()), fill);
}

/// Rounds a row: per block of 32, scale = largest magnitude / 127, values to the nearest step, ties to even. What cannot
/// be rounded has rules of its own, see [`BlockScale::without_steps`].
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(s: S, values: &[f32], quants: &mut [i8], blocks: &mut [BlockScale]) {
    assert!(values.len() == quants.len() && values.len() == blocks.len() * BLOCK);
    for (index, block) in blocks.iter_mut().enumerate() {
        // SAFETY: a block of 32 values from `index * 32` on exists in both slices, by the assertion.
        unsafe {
            let from = values.as_ptr().add(index * BLOCK);
            let (low, high) = (s.load(from), s.load(from.add(LANES)));
            let largest = s.maximum(s.max(s.abs(low), s.abs(high)));
            let inverse = s.splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
            let (low, high) = (s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)));
            let to = quants.as_mut_ptr().add(index * BLOCK);
            s.store_i8(to, low);
            s.store_i8(to.add(LANES), high);
            // Sums of integers below 2^24 are exact in f32.
            let (low, high) = (s.to_f32(low), s.to_f32(high));
            let sum = s.sum(s.add(low, high));
            // A lane that did not round is i32::MIN. Lanes are not compared: the largest one forgets a NaN.
            if sum < -LARGEST_SUM {
                quants[index * BLOCK..(index + 1) * BLOCK].fill(0);
                *block = BlockScale::without_steps(&values[index * BLOCK..(index + 1) * BLOCK]);
                continue;
            }
            let scale = largest / 127.0;
            *block = BlockScale {
                scale,
                scaled_sum: scale * sum,
                sum: sum as i32,
                low: s.sum(low) as i32,
            };
        }
    }
}
