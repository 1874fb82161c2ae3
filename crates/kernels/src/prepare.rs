//! What a row goes through before a product: normalisation, rounding to int8, and the first half of its adapters' deltas.
//! All of it belongs to the row, so rows are shared out and nothing waits in between.

use std::ops::Range;

use crate::Context;
use crate::activations::{Activations, BlockScale, Precision, quantize_row};
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::lora::{Ahead, LowRankBatch, SHRINK_STEP, shrink, with_ranges};
use crate::matrix::BLOCK;
use crate::norm::{RowNorm, RowNorms};
use crate::pool::share;
use crate::simd::Simd;

/// Rows that enter a product: `width` elements at the start of each `stride`.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The elements.
    pub values: &'a [f32],
    /// Distance of rows.
    pub stride: usize,
    /// Elements of a row that enter.
    pub width: usize,
    /// Normalisation on the way.
    pub norm: Option<RowNorms<'a>>,
}

impl<'a> Source<'a> {
    /// Rows of `width` elements without a gap.
    pub fn dense(values: &'a [f32], width: usize, norm: Option<RowNorms<'a>>) -> Self {
        Self {
            values,
            stride: width,
            width,
            norm,
        }
    }

    fn check(&self, rows: usize) {
        let needed = rows.checked_mul(self.stride);
        assert!(self.width <= self.stride && needed.is_some_and(|needed| self.values.len() >= needed));
        if let Some(norms) = self.norm {
            norms.check(self.width);
        }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.width]
    }
}

/// Normalises, rounds and takes the first products of the deltas for `rows` rows.
///
/// # Panics
/// On shapes that do not fit together, or a width that is not a multiple of 32.
pub fn prepare(
    context: &mut Context,
    source: Source<'_>,
    rows: usize,
    to: &mut Activations,
    deltas: &mut LowRankBatch<'_>,
) {
    source.check(rows);
    deltas.check(rows, source.width);
    to.resize(rows, source.width);
    let (threads, isa, precision) = (context.pool.threads(), context.isa, to.precision());
    let LowRankBatch { terms, inner, .. } = deltas;
    let terms = &*terms;
    let (values, quants) = (Disjoint::new(&mut to.values), Disjoint::new(&mut to.quants));
    let (blocks, inner) = (Disjoint::new(&mut to.blocks), Disjoint::new(inner));
    let (width, per_row) = (source.width, source.width / BLOCK);
    let body = |range: Range<usize>, ranges: &mut Vec<Range<usize>>| {
        LowRankBatch::shrink_memory(terms, &range, ranges);
        let ahead = Ahead::paced(ranges, SHRINK_STEP);
        for row in range.clone() {
            let from = source.row(row);
            // SAFETY: a row belongs to one thread.
            let to = unsafe { values.part(row * width..(row + 1) * width) };
            let rounded = (precision == Precision::Int8).then(|| {
                // SAFETY: as above.
                unsafe {
                    (
                        quants.part(row * width..(row + 1) * width),
                        blocks.part(row * per_row..(row + 1) * per_row),
                    )
                }
            });
            isa.run(Row {
                from,
                norm: source.norm.map(|norms| norms.of(row)),
                to,
                rounded,
            });
        }
        for (term, start) in terms {
            let rank = term.pair.rank();
            let own = term.rows.start.max(range.start)..term.rows.end.min(range.end);
            if own.is_empty() {
                continue;
            }
            let at = *start + (own.start - term.rows.start) * rank;
            // SAFETY: the rows, and so their products, belong to this thread, which no longer writes the rows themselves.
            let (x, to) = unsafe {
                (
                    &*values.part(own.start * width..own.end * width),
                    inner.part(at..at + own.len() * rank),
                )
            };
            isa.run(Shrink {
                x,
                rows: own.len(),
                ahead: &ahead,
                pair: term.pair,
                scale: term.scale,
                to,
            });
        }
    };
    if rows == 1 {
        with_ranges(|ranges| body(0..1, ranges))
    } else {
        let own = |thread: usize| share(rows, thread, threads);
        context
            .pool
            .run(|thread| with_ranges(|ranges| body(own(thread), ranges)))
    }
}

struct Row<'a> {
    from: &'a [f32],
    norm: Option<RowNorm<'a>>,
    to: &'a mut [f32],
    rounded: Option<(&'a mut [i8], &'a mut [BlockScale])>,
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.norm {
            Some(norm) => norm.apply(s, self.from, self.to),
            None => self.to.copy_from_slice(self.from),
        }
        if let Some((quants, blocks)) = self.rounded {
            quantize_row(s, self.to, quants, blocks);
        }
    }
}

struct Shrink<'a> {
    x: &'a [f32],
    rows: usize,
    ahead: &'a Ahead<'a>,
    pair: &'a crate::lora::LowRankPair,
    scale: f32,
    to: &'a mut [f32],
}

impl Kernel for Shrink<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        shrink(s, (self.x, self.rows), self.pair, self.scale, (self.to, self.ahead));
    }
}
