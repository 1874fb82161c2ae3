//! Dense products of matrices of f32, and of f32 with packed weights read in either direction: what training needs beside
//! [`crate::linear`], whose weights are read along their inputs only.
//!
//! ```text
//! for each pair of column blocks (32 columns), shared out over the threads:
//!   for each chunk of the depth:
//!     panel[2][depth][16] = the right operand, whatever it is stored as          (decoded once for all rows)
//!     for each tile of R rows:  sums[R][2] = rows x panel, one chain per output
//!                               out (+)= scale * sums
//! ```
//!
//! Weights stay as they are stored: a chunk is decoded to a panel that fits the second-level cache, and a batch of some
//! hundred rows pays for that. With few columns the rows are shared out instead, and every thread fills its own panels.
//!
//! [`Arithmetic::F32`] gives the same bits on every instruction set and for any number of threads: an output has one chain
//! of fused multiply-adds per chunk, chunks are added in order. [`Arithmetic::Bf16`] rounds both operands to bfloat16 and
//! sums in f32 on tile registers (AMX); where the CPU has none it rounds the same way and multiplies in f32.

mod operand;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::cell::Cell;
use std::ops::Range;

pub use self::operand::{Right, View};
use crate::Context;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::matrix::{COLUMNS, PAIR};
use crate::pool::share;
use crate::simd::Simd;

/// Greatest depth of a panel, a multiple of 32: 2 x 768 x 16 f32 are 96 KiB.
const DEPTH: usize = 768;

/// Sixteen columns of the right operand, one line per step of the depth.
type Line = [f32; COLUMNS];

/// What a product is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 throughout.
    F32,
    /// Operands rounded to bfloat16, sums in f32.
    Bf16,
}

/// `out (+)= scale * left * right`.
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a> {
    /// `[rows, depth]`
    pub left: View<'a>,
    /// `[depth, columns]`
    pub right: Right<'a>,
    /// Factor on the product.
    pub scale: f32,
    /// Adds to what `out` holds.
    pub accumulate: bool,
    /// Precision.
    pub arithmetic: Arithmetic,
}

impl<'a> Gemm<'a> {
    /// The plain product in f32.
    pub fn new(left: View<'a>, right: Right<'a>) -> Self {
        Self {
            left,
            right,
            scale: 1.0,
            accumulate: false,
            arithmetic: Arithmetic::F32,
        }
    }
}

/// Where products go: `[rows, columns]`, rows `stride` apart.
struct Out<'a> {
    values: Disjoint<'a, f32>,
    stride: usize,
    columns: usize,
}

/// Computes a product into `out` of `[rows, columns]`.
///
/// # Panics
/// On operands that do not fit each other, or an `out` of another size.
pub fn gemm(context: &mut Context, product: &Gemm<'_>, out: &mut [f32]) {
    let (rows, columns) = (product.left.rows, product.right.columns());
    assert_eq!(product.left.columns, product.right.depth(), "depths of the operands");
    assert_eq!(out.len(), rows * columns, "elements of the product");
    if rows == 0 || columns == 0 {
        return;
    }
    let out = Out {
        values: Disjoint::new(out),
        stride: columns,
        columns,
    };
    #[cfg(target_arch = "x86_64")]
    if product.arithmetic == Arithmetic::Bf16 && context.isa.has_bf16_tiles() {
        return tiles::multiply(context, product, &out);
    }
    let (isa, threads, pairs) = (context.isa, context.pool.threads(), columns.div_ceil(PAIR));
    context.pool.run(|thread| {
        let (pairs, rows) = match pairs >= threads {
            true => (share(pairs, thread, threads), 0..rows),
            false => (0..pairs, share(rows, thread, threads)),
        };
        isa.run(rows::Multiply {
            product,
            pairs,
            rows,
            out: &out,
        });
    });
}

/// Computes a product on the calling thread, within a kernel: rows of `out` start `stride` apart.
///
/// # Panics
/// On operands that do not fit each other, or an `out` that ends before the last row does.
#[inline(always)]
pub(crate) fn multiply_alone<S: Simd>(s: S, product: &Gemm<'_>, (out, stride): (&mut [f32], usize)) {
    let (rows, columns) = (product.left.rows, product.right.columns());
    assert_eq!(product.left.columns, product.right.depth(), "depths of the operands");
    assert!(rows > 0 && columns > 0 && (rows - 1) * stride + columns <= out.len());
    let out = Out {
        values: Disjoint::new(out),
        stride,
        columns,
    };
    let part = rows::Multiply {
        product,
        pairs: 0..columns.div_ceil(PAIR),
        rows: 0..rows,
        out: &out,
    };
    part.run(s);
}

thread_local! {
    /// Memory of a thread's panels.
    static PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// A thread's panels, two of [`DEPTH`] lines, while it multiplies. Not lent to a closure: that would be compiled without the
/// instruction set of the kernel around it.
struct Panels(Vec<Line>);

impl Panels {
    fn take() -> Self {
        let mut lines = PANELS.take();
        lines.resize(2 * DEPTH, [0.0; COLUMNS]);
        Self(lines)
    }

    #[inline(always)]
    fn both(&mut self) -> [&mut [Line]; 2] {
        let (first, second) = self.0.split_at_mut(DEPTH);
        [first, second]
    }
}

impl Drop for Panels {
    fn drop(&mut self) {
        PANELS.set(std::mem::take(&mut self.0));
    }
}

/// Chunks of a range of at most `most` steps each, nearly equal, and each but the last a multiple of 32 steps.
fn chunks(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = range.len().div_ceil(most).max(1);
    let size = range.len().div_ceil(count).next_multiple_of(32).max(32);
    range
        .clone()
        .step_by(size)
        .map(move |from| from..range.end.min(from + size))
}

/// The nearest bfloat16, ties to even; NaN stays one.
#[inline(always)]
pub(crate) fn round_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // Rounding could carry a NaN's fraction away.
    let quiet = bits >> 16 | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}
