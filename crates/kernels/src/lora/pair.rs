//! The two matrices of an adapter on one linear map, and the two products with them. `A` stays `[rank, inputs]` with
//! lanes along the inputs and one fixed reduction; `B` is packed `[column block][rank][16]` with lanes across outputs.

use std::ops::Range;

use crate::element::{ElementType, Elements, Load, with_elements};
use crate::matrix::{COLUMNS, ShapeError};
use crate::simd::{LANES, Simd};

/// The matrices of one adapter on one linear map, packed.
pub struct LowRankPair {
    rank: usize,
    inputs: usize,
    outputs: usize,
    a: Elements,
    b: Elements,
}

impl LowRankPair {
    /// Packs `a` of `[rank, inputs]` and `b` of `[outputs, rank]`, little endian, row by row.
    ///
    /// # Errors
    /// Sizes that contradict each other, or inputs that are not a multiple of 16.
    pub fn pack(
        (a_type, a): (ElementType, &[u8]),
        (b_type, b): (ElementType, &[u8]),
        rank: usize,
        (inputs, outputs): (usize, usize),
    ) -> Result<Self, ShapeError> {
        let size = |kind: ElementType, width: usize| rank.checked_mul(width)?.checked_mul(kind.size());
        if size(a_type, inputs) != Some(a.len()) || size(b_type, outputs) != Some(b.len()) {
            return Err(ShapeError(format!(
                "low-rank pair of rank {rank} on {outputs} x {inputs}: {} and {} bytes",
                a.len(),
                b.len()
            )));
        }
        if !inputs.is_multiple_of(LANES) {
            return Err(ShapeError(format!(
                "expected inputs in multiples of {LANES}, got {inputs}"
            )));
        }
        let padded = outputs.next_multiple_of(COLUMNS);
        Ok(Self {
            rank,
            inputs,
            outputs,
            a: Elements::gather(a_type, a, rank * inputs, Some),
            b: Elements::gather(b_type, b, padded * rank, |place| {
                let (lane, component) = (place % COLUMNS, place / COLUMNS % rank);
                let output = place / COLUMNS / rank * COLUMNS + lane;
                (output < outputs).then_some(output * rank + component)
            }),
        })
    }

    /// Rank of the pair.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Resident bytes.
    pub fn bytes(&self) -> usize {
        self.a.bytes() + self.b.bytes()
    }

    /// Shape of the map it changes as (inputs, outputs).
    pub fn shape(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }
}

/// Inner products of one row with every component of `a`, scaled, into `to` of `rank` elements.
#[inline(always)]
pub(crate) fn shrink<S: Simd>(s: S, x: &[f32], pair: &LowRankPair, scale: f32, to: &mut [f32]) {
    assert!(x.len() == pair.inputs && to.len() == pair.rank);
    with_elements!(&pair.a, a => {
        assert!(a.len() == pair.rank * pair.inputs);
        let mut component = 0;
        while component + 8 <= pair.rank {
            // SAFETY: eight components of `inputs` elements exist from here on.
            unsafe { shrink_components::<S, _, 8>(s, x, a, scale, component, to) };
            component += 8;
        }
        while component < pair.rank {
            // SAFETY: as above, for one component.
            unsafe { shrink_components::<S, _, 1>(s, x, a, scale, component, to) };
            component += 1;
        }
    });
}

/// # Safety
/// `a` holds components `component .. component + N` of `x.len()` elements; `to` holds as many elements.
#[inline(always)]
unsafe fn shrink_components<S: Simd, L: Load, const N: usize>(
    s: S,
    x: &[f32],
    a: L,
    scale: f32,
    component: usize,
    to: &mut [f32],
) {
    let mut sums = [s.splat(0.0); N];
    for at in (0..x.len()).step_by(LANES) {
        // SAFETY: `x.len()` is a multiple of 16 and the components exist, by the caller's promise.
        unsafe {
            let input = s.load(x.as_ptr().add(at));
            for n in 0..N {
                sums[n] = s.mul_add(a.load(s, (component + n) * x.len() + at), input, sums[n]);
            }
        }
    }
    for n in 0..N {
        to[component + n] = scale * s.sum(sums[n]);
    }
}

/// Adds one term to the columns of `column_blocks` of one row; `out` starts at the first of them and ends with the last
/// column of theirs that exists, `inner` holds the row's `rank` products. `factors` scale the term by column.
#[inline(always)]
pub(crate) fn expand<S: Simd>(
    s: S,
    pair: &LowRankPair,
    (inner, factors): (&[f32], Option<&[f32]>),
    out: &mut [f32],
    column_blocks: Range<usize>,
) {
    let end = (column_blocks.end * COLUMNS).min(pair.outputs);
    assert!(inner.len() == pair.rank && out.len() == end - column_blocks.start * COLUMNS);
    with_elements!(&pair.b, b => {
        assert!(b.len() == pair.outputs.next_multiple_of(COLUMNS) * pair.rank);
        match factors {
            None => expand_row(s, b, inner, out, column_blocks.start),
            Some(factors) => {
                let mut block = column_blocks.start;
                for (out, factors) in out.chunks_mut(GROUP).zip(factors[block * COLUMNS..end].chunks(GROUP)) {
                    let mut delta = [0.0; GROUP];
                    expand_row(s, b, inner, &mut delta[..out.len()], block);
                    for ((out, delta), factor) in out.iter_mut().zip(delta).zip(factors) {
                        *out += delta * factor;
                    }
                    block += GROUP / COLUMNS;
                }
            }
        }
    });
}

/// Columns whose chains of additions run side by side.
const GROUP: usize = 4 * COLUMNS;

/// Adds one term to the columns of `out`, the first of which starts column block `block`.
#[inline(always)]
fn expand_row<S: Simd, L: Load>(s: S, b: L, inner: &[f32], out: &mut [f32], block: usize) {
    let whole = out.len() / COLUMNS;
    assert!((block + out.len().div_ceil(COLUMNS)) * COLUMNS * inner.len() <= b.len());
    let mut done = 0;
    while done + 4 <= whole {
        // SAFETY: four whole column blocks exist from here on in `b` and `out`.
        unsafe { expand_columns::<S, _, 4>(s, b, inner, block + done, out.as_mut_ptr().add(done * COLUMNS)) };
        done += 4;
    }
    while done < whole {
        // SAFETY: as above, for one column block.
        unsafe { expand_columns::<S, _, 1>(s, b, inner, block + done, out.as_mut_ptr().add(done * COLUMNS)) };
        done += 1;
    }
    let rest = &mut out[whole * COLUMNS..];
    if !rest.is_empty() {
        let mut tail = [0.0; COLUMNS];
        tail[..rest.len()].copy_from_slice(rest);
        // SAFETY: `b` is padded to whole column blocks, `tail` is one.
        unsafe { expand_columns::<S, _, 1>(s, b, inner, block + whole, tail.as_mut_ptr()) };
        rest.copy_from_slice(&tail[..rest.len()]);
    }
}

/// # Safety
/// `b` holds column blocks `block .. block + N` of `inner.len()` components, `out` as many times 16 elements.
#[inline(always)]
unsafe fn expand_columns<S: Simd, L: Load, const N: usize>(s: S, b: L, inner: &[f32], block: usize, out: *mut f32) {
    // SAFETY: every access is within the column blocks of the caller's promise.
    unsafe {
        let mut sums = [s.splat(0.0); N];
        for n in 0..N {
            sums[n] = s.load(out.add(n * COLUMNS));
        }
        for (component, &factor) in inner.iter().enumerate() {
            let factor = s.splat(factor);
            for n in 0..N {
                let weights = b.load(s, ((block + n) * inner.len() + component) * COLUMNS);
                sums[n] = s.mul_add(factor, weights, sums[n]);
            }
        }
        for n in 0..N {
            s.store(out.add(n * COLUMNS), sums[n]);
        }
    }
}
