//! Rotary positions of rows of heads, in place; the way back turns by the opposite angles.

use std::ops::Range;

use super::rows::{Part, share_rows};
use crate::disjoint::Disjoint;
use crate::simd::Simd;
use crate::{Context, RotaryTable};

/// How rows are rotated.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines and sines.
    pub table: &'a RotaryTable,
    /// Position of every row.
    pub positions: &'a [usize],
    /// Width of a head.
    pub head_dim: usize,
    /// The transposed map: gradients of what was rotated.
    pub back: bool,
}

/// Rotates every head of rows of heads; `values` has a row for every position.
///
/// # Panics
/// On shapes that do not fit together, or positions beyond the table.
pub fn rotate_rows(context: &mut Context, rotation: Rotation<'_>, values: &mut [f32]) {
    let rows = rotation.positions.len();
    assert!(rows > 0 && values.len().is_multiple_of(rows * rotation.head_dim));
    assert!(rotation.table.pairs() * 2 <= rotation.head_dim);
    let part = Rotate {
        rotation,
        width: values.len() / rows,
        values: Disjoint::new(values),
    };
    share_rows(context, rows, &part);
}

struct Rotate<'a> {
    rotation: Rotation<'a>,
    width: usize,
    values: Disjoint<'a, f32>,
}

impl Part for Rotate<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, rows: Range<usize>) {
        let Rotation {
            table,
            positions,
            head_dim,
            back,
        } = self.rotation;
        let sign = if back { -1.0 } else { 1.0 };
        for row in rows {
            let (cos, sin) = table.row(positions[row]);
            // SAFETY: rows are shared out.
            let values = unsafe { self.values.part(row * self.width..(row + 1) * self.width) };
            for head in values.chunks_exact_mut(head_dim) {
                let (first, rest) = head.split_at_mut(cos.len());
                for (((first, second), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                    let (a, b, sin) = (*first, *second, sin * sign);
                    *first = a * cos - b * sin;
                    *second = b * cos + a * sin;
                }
            }
        }
    }
}
