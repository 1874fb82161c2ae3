//! What can stand in a product: f32 at any strides, and packed weights in either direction.

use std::ops::Range;

use super::Line;
use crate::PackedMatrix;
use crate::matrix::{BLOCK, COLUMNS, PAIR};
use crate::simd::Simd;

/// A matrix of f32 in memory: element (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) values: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows of `columns` elements that follow each other.
    ///
    /// # Panics
    /// On values that are not whole rows.
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        assert!(columns > 0 && values.len().is_multiple_of(columns));
        Self::strided(values, values.len() / columns, columns, columns)
    }

    /// The first `columns` elements of each of `rows` rows that start `stride` apart.
    ///
    /// # Panics
    /// On values that end before the last row does.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= values.len());
        Self {
            values,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// Rows for columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Columns `16 * block..` of rows `depth`, zeros beyond the last column.
    #[inline(always)]
    fn fill(&self, depth: Range<usize>, block: usize, panel: &mut [Line]) {
        let first = block * COLUMNS;
        let columns = COLUMNS.min(self.columns.saturating_sub(first));
        for (row, line) in depth.zip(panel) {
            let at = row * self.row_stride + first * self.column_stride;
            if columns == COLUMNS && self.column_stride == 1 {
                // An array's copy is two instructions, a slice's is a call.
                if let Some(values) = self.values[at..].first_chunk() {
                    *line = *values;
                }
                continue;
            }
            *line = [0.0; COLUMNS];
            for (column, value) in line[..columns].iter_mut().enumerate() {
                *value = self.values[at + column * self.column_stride];
            }
        }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// `[depth, columns]` in f32.
    Dense(View<'a>),
    /// Weights `[outputs, inputs]` applied to rows of inputs: depth is inputs, columns are outputs.
    Forward(&'a PackedMatrix),
    /// The same weights applied to rows of outputs, as gradients are: depth is outputs, columns are inputs.
    Backward(&'a PackedMatrix),
}

impl std::fmt::Debug for Right<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Dense(_) => "Dense",
            Self::Forward(_) => "Forward",
            Self::Backward(_) => "Backward",
        };
        write!(f, "{name}[{}, {}]", self.depth(), self.columns())
    }
}

impl Right<'_> {
    /// Steps of the sums.
    pub fn depth(&self) -> usize {
        match self {
            Self::Dense(view) => view.rows,
            Self::Forward(matrix) => matrix.inputs(),
            Self::Backward(matrix) => matrix.outputs(),
        }
    }

    /// Columns of the product.
    pub fn columns(&self) -> usize {
        match self {
            Self::Dense(view) => view.columns,
            Self::Forward(matrix) => matrix.outputs(),
            Self::Backward(matrix) => matrix.inputs(),
        }
    }

    /// The lines of a pair of column blocks for steps `depth`, which starts at a multiple of 32.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&self, s: S, depth: Range<usize>, pair: usize, panels: [&mut [Line]; 2]) {
        match self {
            Self::Dense(view) => {
                for (half, panel) in panels.into_iter().enumerate() {
                    view.fill(depth.clone(), pair * 2 + half, panel);
                }
            }
            Self::Forward(matrix) => {
                for (half, panel) in panels.into_iter().enumerate() {
                    let tiles = panel[..depth.len()].as_chunks_mut::<BLOCK>().0;
                    for (block, tile) in (depth.start / BLOCK..).zip(tiles) {
                        matrix.decode_tile(s, pair * 2 + half, block, tile);
                    }
                }
            }
            Self::Backward(matrix) => fill_backward(s, matrix, depth, pair, panels),
        }
    }
}

/// Outputs are the steps and inputs the columns: every tile is turned.
#[inline(always)]
fn fill_backward<S: Simd>(s: S, matrix: &PackedMatrix, depth: Range<usize>, pair: usize, panels: [&mut [Line]; 2]) {
    const { assert!(PAIR == BLOCK) };
    let mut tile = [[0.0; COLUMNS]; BLOCK];
    for first in depth.clone().step_by(COLUMNS) {
        matrix.decode_tile(s, first / COLUMNS, pair, &mut tile);
        let (at, steps) = (first - depth.start, COLUMNS.min(depth.end - first));
        for half in 0..2 {
            for (step, line) in panels[half][at..at + steps].iter_mut().enumerate() {
                for column in 0..COLUMNS {
                    line[column] = tile[half * COLUMNS + column][step];
                }
            }
        }
    }
}
