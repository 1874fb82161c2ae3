//! What a row goes through before a product: normalisation, rounding to int8, and the first half of its adapters' deltas.
//! All of it belongs to the row, so rows are shared out and nothing waits in between.

use std::cell::RefCell;
use std::ops::Range;

use crate::Context;
use crate::activations::{Activations, BlockScale, CoarseWriter, Precision, quantize_row};
use crate::disjoint::Disjoint;
use crate::isa::{Isa, Kernel};
use crate::linear::coarse_share;
use crate::lora::{Ahead, LowRankBatch, LowRankTerm, SHRINK_STEP, shrink, with_ranges};
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
    /// Rows from here on are rounded in coarse groups of 256, where they are rounded: for products of many rows where
    /// [`crate::Isa::has_tiles`]. Which of the two a row takes decides its bits, so it must not depend on its batch.
    pub coarse_from: usize,
    /// The product has weights that take the rows in f32 ([`crate::PackedMatrix::takes_floats`]).
    pub keep: bool,
}

impl<'a> Source<'a> {
    /// Rows of `width` elements without a gap.
    pub fn dense(values: &'a [f32], width: usize, norm: Option<RowNorms<'a>>) -> Self {
        Self {
            values,
            stride: width,
            width,
            norm,
            coarse_from: usize::MAX,
            keep: false,
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
    let precision = to.precision();
    let keep = precision == Precision::F32
        || source.keep
        || deltas.has_dense_terms()
        || source.norm.is_some() && !deltas.terms.is_empty();
    to.resize(rows, source.width, source.coarse_from, keep);
    let (threads, isa) = (context.pool.threads(), context.isa);
    let LowRankBatch { terms, inner, .. } = deltas;
    let coarse_from = to.coarse_from();
    let rounded = Rounded {
        precision,
        width: source.width,
        coarse_from,
        quants: Disjoint::new(&mut to.quants),
        blocks: Disjoint::new(&mut to.blocks),
        coarse: to.coarse.writer(),
    };
    let job = Job {
        isa,
        source,
        terms,
        inner: Disjoint::new(inner),
        values: keep.then(|| Disjoint::new(&mut to.values)),
        rounded,
    };
    if rows == 1 {
        with_ranges(|ranges| job.run(0..1, ranges))
    } else {
        context.pool.run(|thread| {
            with_ranges(|ranges| {
                job.run(share(coarse_from, thread, threads), ranges);
                job.run(coarse_share(coarse_from..rows, (thread, threads)), ranges);
            });
        });
    }
}

/// What all threads work on.
struct Job<'a> {
    isa: Isa,
    source: Source<'a>,
    terms: &'a [(LowRankTerm<'a>, usize)],
    inner: Disjoint<'a, f32>,
    /// Rows in f32, where they are kept.
    values: Option<Disjoint<'a, f32>>,
    rounded: Rounded<'a>,
}

/// Rows to be written rounded.
struct Rounded<'a> {
    precision: Precision,
    width: usize,
    coarse_from: usize,
    quants: Disjoint<'a, i8>,
    blocks: Disjoint<'a, BlockScale>,
    coarse: CoarseWriter<'a>,
}

thread_local! {
    /// A normalised row that is not kept.
    static NORMED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Job<'_> {
    /// The rows of one thread.
    fn run(&self, range: Range<usize>, ranges: &mut Vec<Range<usize>>) {
        if range.is_empty() {
            return;
        }
        LowRankBatch::shrink_memory(self.terms, &range, ranges);
        let ahead = Ahead::paced(ranges, SHRINK_STEP);
        NORMED.with_borrow_mut(|normed| {
            normed.resize(self.source.width, 0.0);
            for row in range.clone() {
                self.row(row, normed);
            }
        });
        for (term, start) in self.terms {
            let own = term.rows.start.max(range.start)..term.rows.end.min(range.end);
            if !own.is_empty() {
                self.shrink(term, *start, own, &ahead);
            }
        }
    }

    fn row(&self, row: usize, normed: &mut [f32]) {
        let (source, width) = (&self.source, self.source.width);
        let to = match &self.values {
            // SAFETY: a row belongs to one thread.
            Some(values) => Some(unsafe { values.part(row * width..(row + 1) * width) }),
            None => source.norm.is_some().then_some(normed),
        };
        self.isa.run(Row {
            from: source.row(row),
            norm: source.norm.map(|norms| norms.of(row)),
            to,
            rounding: self.rounded.row(row),
        });
    }

    /// First products of a term for rows of this thread.
    fn shrink(&self, term: &LowRankTerm<'_>, start: usize, own: Range<usize>, ahead: &Ahead<'_>) {
        let (rank, width) = (term.pair.rank(), self.source.width);
        let at = start + (own.start - term.rows.start) * rank;
        let (x, stride) = match &self.values {
            // SAFETY: the rows belong to this thread, which no longer writes them.
            Some(values) => (unsafe { &*values.part(own.start * width..own.end * width) }, width),
            None => (
                &self.source.values[own.start * self.source.stride..],
                self.source.stride,
            ),
        };
        self.isa.run(Shrink {
            x: (x, stride, own.len()),
            ahead,
            pair: term.pair,
            scale: term.scale,
            // SAFETY: the products of rows of this thread.
            to: unsafe { self.inner.part(at..at + own.len() * rank) },
        });
    }
}

impl Rounded<'_> {
    /// Where a row of the calling thread goes.
    fn row(&self, row: usize) -> Rounding<'_> {
        let (width, per_row) = (self.width, self.width / BLOCK);
        match self.precision {
            Precision::F32 => Rounding::None,
            Precision::Int8 if row >= self.coarse_from => Rounding::Coarse(&self.coarse, row - self.coarse_from),
            // SAFETY: a row belongs to one thread.
            Precision::Int8 => unsafe {
                Rounding::Fine(
                    self.quants.part(row * width..(row + 1) * width),
                    self.blocks.part(row * per_row..(row + 1) * per_row),
                )
            },
        }
    }
}

struct Row<'a> {
    from: &'a [f32],
    norm: Option<RowNorm<'a>>,
    /// Where it stands in f32 before it is rounded, if not where it comes from.
    to: Option<&'a mut [f32]>,
    rounding: Rounding<'a>,
}

/// Where a row goes rounded.
enum Rounding<'a> {
    None,
    Fine(&'a mut [i8], &'a mut [BlockScale]),
    Coarse(&'a CoarseWriter<'a>, usize),
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let values = match (self.norm, self.to) {
            (Some(norm), Some(to)) => {
                norm.apply(s, self.from, to);
                &*to
            }
            (None, Some(to)) => {
                to.copy_from_slice(self.from);
                &*to
            }
            (_, None) => self.from,
        };
        match self.rounding {
            Rounding::None => {}
            Rounding::Fine(quants, blocks) => quantize_row(s, values, quants, blocks),
            // SAFETY: the row belongs to this thread, as its values do.
            Rounding::Coarse(writer, row) => unsafe { writer.put(s, row, values) },
        }
    }
}

struct Shrink<'a> {
    /// From the first row on, their distance and number.
    x: (&'a [f32], usize, usize),
    ahead: &'a Ahead<'a>,
    pair: &'a crate::lora::LowRankPair,
    scale: f32,
    to: &'a mut [f32],
}

impl Kernel for Shrink<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        shrink(s, self.x, self.pair, self.scale, (self.to, self.ahead));
    }
}
