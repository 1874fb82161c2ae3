//! Sums and factors of rows, and dropout whose mask is a function of a key and a place: it is drawn again on the way back,
//! not kept.

use std::ops::Range;

use crate::Context;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::pool::share;
use crate::simd::Simd;

/// A computation on each part of some slices that threads share out; parts are whole rows.
pub(crate) trait Part: Sync {
    /// Works on rows `rows`.
    fn run<S: Simd>(&self, s: S, rows: Range<usize>);
}

struct Run<'a, P> {
    part: &'a P,
    rows: Range<usize>,
}

impl<P: Part> Kernel for Run<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.part.run(s, self.rows);
    }
}

/// Runs a computation on rows `0..rows`, shared out over the threads.
pub(crate) fn share_rows(context: &mut Context, rows: usize, part: &impl Part) {
    let (isa, threads) = (context.isa, context.pool.threads());
    context.pool.run(|thread| {
        let rows = share(rows, thread, threads);
        isa.run(Run { part, rows });
    });
}

/// Elements that threads share out at a time, a multiple of what a vector holds.
const CHUNK: usize = 4096;

/// Chunks of a slice of `len` elements.
pub(super) fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// The elements of some chunks of a slice of `len`.
#[inline(always)]
pub(super) fn elements(chunks: Range<usize>, len: usize) -> Range<usize> {
    len.min(chunks.start * CHUNK)..len.min(chunks.end * CHUNK)
}

/// `to += from`.
///
/// # Panics
/// On slices of different lengths.
pub fn add_rows(context: &mut Context, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let chunks = chunks(to.len());
    let part = Add {
        from,
        to: Disjoint::new(to),
    };
    share_rows(context, chunks, &part);
}

struct Add<'a> {
    from: &'a [f32],
    to: Disjoint<'a, f32>,
}

impl Part for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, chunks: Range<usize>) {
        let range = elements(chunks, self.from.len());
        // SAFETY: chunks are shared out.
        let to = unsafe { self.to.part(range.clone()) };
        to.iter_mut().zip(&self.from[range]).for_each(|(to, from)| *to += from);
    }
}

/// Multiplies every row by `factors`, column by column.
///
/// # Panics
/// On values that are not whole rows.
pub fn multiply_columns(context: &mut Context, factors: &[f32], values: &mut [f32]) {
    assert!(!factors.is_empty() && values.len().is_multiple_of(factors.len()));
    let rows = values.len() / factors.len();
    let part = Multiply {
        factors,
        values: Disjoint::new(values),
    };
    share_rows(context, rows, &part);
}

struct Multiply<'a> {
    factors: &'a [f32],
    values: Disjoint<'a, f32>,
}

impl Part for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, rows: Range<usize>) {
        let width = self.factors.len();
        for row in rows {
            // SAFETY: rows are shared out.
            let values = unsafe { self.values.part(row * width..(row + 1) * width) };
            values
                .iter_mut()
                .zip(self.factors)
                .for_each(|(value, factor)| *value *= factor);
        }
    }
}

/// Adds the sums over rows of `values`, or of its products with `others`, to `to`: gradients of biases and of factors.
///
/// # Panics
/// On shapes that do not fit together.
pub fn column_sums(values: &[f32], others: Option<&[f32]>, to: &mut [f32]) {
    assert!(!to.is_empty() && values.len().is_multiple_of(to.len()));
    let width = to.len();
    match others {
        None => {
            for row in values.chunks_exact(width) {
                to.iter_mut().zip(row).for_each(|(to, value)| *to += value);
            }
        }
        Some(others) => {
            assert_eq!(values.len(), others.len());
            for (row, other) in values.chunks_exact(width).zip(others.chunks_exact(width)) {
                for ((to, value), other) in to.iter_mut().zip(row).zip(other) {
                    *to += value * other;
                }
            }
        }
    }
}

/// Sets each element to 0 with a probability, and divides the others by the rest: `key` and an element's place decide, so the
/// same call gives the same elements.
///
/// # Panics
/// On a probability outside of `0..1`.
pub fn dropout(context: &mut Context, key: u64, probability: f32, values: &mut [f32]) {
    assert!((0.0..1.0).contains(&probability));
    let chunks = chunks(values.len());
    let part = Dropout {
        key,
        // Of 2^32 equally likely numbers, those below this one drop an element.
        below: (f64::from(probability) * 4_294_967_296.0) as u32,
        factor: 1.0 / (1.0 - probability),
        len: values.len(),
        values: Disjoint::new(values),
    };
    share_rows(context, chunks, &part);
}

struct Dropout<'a> {
    key: u64,
    below: u32,
    factor: f32,
    len: usize,
    values: Disjoint<'a, f32>,
}

impl Part for Dropout<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, chunks: Range<usize>) {
        let range = elements(chunks, self.len);
        // SAFETY: chunks are shared out.
        let values = unsafe { self.values.part(range.clone()) };
        for (place, value) in range.zip(values) {
            let kept = mixed(self.key, place as u64) >= self.below;
            *value = if kept { *value * self.factor } else { 0.0 };
        }
    }
}

/// Thirty-two bits of a key and a place, as good as random: SplitMix64's last steps (Steele et al., 2014).
#[inline(always)]
fn mixed(key: u64, place: u64) -> u32 {
    let z = key.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}
