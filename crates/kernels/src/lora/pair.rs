//! The two matrices of an adapter on one linear map, and the two products with them. Both are packed so that a product
//! walks one stream of memory from start to end: adapters are read once per step and from memory, not from a cache.
//!
//! ```text
//! A: per group of 8, 4 or 1 components: [inputs / 16][components of the group][16 inputs]
//! B:                                    [outputs / 16][rank][16 outputs]
//! ```
//!
//! The first product has lanes along the inputs, one chain and one fixed reduction per component; the second has lanes
//! across outputs and one chain along the components. Rows of the same adapter go through in tiles that share what is
//! loaded; an output's additions are the same in any tile.

use std::ops::Range;

use super::Ahead;
use crate::element::{ElementType, Elements, Load, Places, with_elements};
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

/// First component and width of the group that `component` is in.
fn group(component: usize, rank: usize) -> (usize, usize) {
    let eights = rank / 8 * 8;
    if component < eights {
        (component / 8 * 8, 8)
    } else if component < eights + (rank - eights) / 4 * 4 {
        (eights, 4)
    } else {
        (component, 1)
    }
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
        let vectors = inputs / LANES;
        let a = Elements::gather(a_type, a, rank * vectors, |place| {
            let (first, width) = group(place / vectors, rank);
            let within = place - first * vectors;
            let (vector, component) = (within / width, first + within % width);
            Places {
                first: component * inputs + vector * LANES,
                stride: 1,
                count: LANES,
            }
        });
        let b = Elements::gather(b_type, b, outputs.div_ceil(COLUMNS) * rank, |place| {
            let (output, component) = (place / rank * COLUMNS, place % rank);
            Places {
                first: output * rank + component,
                stride: rank,
                count: (outputs - output).min(COLUMNS),
            }
        });
        let (a, b) = (a.narrowed(), b.narrowed());
        Ok(Self {
            rank,
            inputs,
            outputs,
            a,
            b,
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

    /// Where the first product reads.
    pub(crate) fn shrink_memory(&self) -> Range<usize> {
        self.a.memory(0..self.rank * self.inputs)
    }

    /// Where the second product of these column blocks reads.
    pub(crate) fn expand_memory(&self, column_blocks: Range<usize>) -> Range<usize> {
        let end = column_blocks.end.min(self.outputs.div_ceil(COLUMNS));
        let per_block = self.rank * COLUMNS;
        self.b.memory(column_blocks.start.min(end) * per_block..end * per_block)
    }
}

/// Bytes of 16-bit elements that a step of the first product reads.
pub(crate) const SHRINK_STEP: usize = 8 * LANES * 2;

/// Inner products of `rows` rows of `x`, `stride` apart, with every component of A, scaled, into `to` of `[rows, rank]`.
#[inline(always)]
pub(crate) fn shrink<S: Simd>(
    s: S,
    (x, stride, rows): (&[f32], usize, usize),
    pair: &LowRankPair,
    scale: f32,
    (to, ahead): (&mut [f32], &Ahead<'_>),
) {
    let (rank, inputs) = (pair.rank, pair.inputs);
    assert!(rows == 0 || x.len() >= (rows - 1) * stride + inputs);
    assert!(inputs <= stride && to.len() == rows * rank);
    with_elements!(&pair.a, a => {
        assert!(a.len() == rank * inputs && inputs.is_multiple_of(LANES));
        let mut row = 0;
        while row < rows {
            let tile = if S::TILE_ROWS >= 6 && rows - row >= 3 { 3 } else { 1 };
            let x = (&x[row * stride..], stride);
            let to = &mut to[row * rank..(row + tile) * rank];
            match tile {
                3 if S::TILE_ROWS >= 6 => shrink_rows::<S, _, 3>(s, x, (a, pair, ahead), scale, to),
                _ => shrink_rows::<S, _, 1>(s, x, (a, pair, ahead), scale, to),
            }
            row += tile;
        }
    });
}

/// All components of R rows.
#[inline(always)]
fn shrink_rows<S: Simd, L: Load, const R: usize>(
    s: S,
    (x, stride): (&[f32], usize),
    (a, pair, ahead): (L, &LowRankPair, &Ahead<'_>),
    scale: f32,
    to: &mut [f32],
) {
    let (rank, width) = (pair.rank, pair.inputs);
    assert!(to.len() == R * rank && a.len() == rank * width && x.len() >= (R - 1) * stride + width);
    let x = (x, stride, width);
    let mut component = 0;
    while component < rank {
        let left = rank - component;
        // SAFETY: the components of a group exist from here on in `a` and, for R rows, in `to`.
        component += unsafe {
            match left {
                8.. => shrink_group::<S, L, R, 8>(s, x, (a, rank, ahead), scale, component, to),
                4.. => shrink_group::<S, L, R, 4>(s, x, (a, rank, ahead), scale, component, to),
                _ => shrink_group::<S, L, R, 1>(s, x, (a, rank, ahead), scale, component, to),
            }
        };
    }
}

/// A group of N components; returns N.
///
/// # Safety
/// `x` holds R rows of a width that is a multiple of 16, `stride` apart; `a` holds components `component .. component + N` of that width, `to`
/// R rows of `rank` elements, which those components are below.
#[inline(always)]
unsafe fn shrink_group<S: Simd, L: Load, const R: usize, const N: usize>(
    s: S,
    (x, stride, width): (&[f32], usize, usize),
    (a, rank, ahead): (L, usize, &Ahead<'_>),
    scale: f32,
    component: usize,
    to: &mut [f32],
) -> usize {
    let mut sums = [[s.splat(0.0); N]; R];
    let mut place = component * width;
    for at in (0..width).step_by(LANES) {
        ahead.step();
        // SAFETY: the rows have 16 elements from `at` on, and the group as many of each component from `place` on.
        unsafe {
            let mut inputs = [s.splat(0.0); R];
            for r in 0..R {
                inputs[r] = s.load(x.as_ptr().add(r * stride + at));
            }
            for n in 0..N {
                let weights = a.load(s, place + n * LANES);
                for r in 0..R {
                    sums[r][n] = s.mul_add(weights, inputs[r], sums[r][n]);
                }
            }
        }
        place += N * LANES;
    }
    for r in 0..R {
        for n in 0..N {
            to[r * rank + component + n] = scale * s.sum(sums[r][n]);
        }
    }
    N
}

/// Adds one term to the columns of `column_blocks` of R rows; each of `out` starts at the first of them and ends with the
/// last column of theirs that exists, `inner` holds `rank` products per row. `factors` scale the term by column.
#[inline(always)]
pub(crate) fn expand<S: Simd, const R: usize>(
    s: S,
    pair: &LowRankPair,
    (inner, factors): (&[f32], Option<&[f32]>),
    out: [&mut [f32]; R],
    column_blocks: Range<usize>,
) {
    let first = column_blocks.start * COLUMNS;
    let columns = (column_blocks.end * COLUMNS).min(pair.outputs) - first;
    assert!(inner.len() == R * pair.rank && out.iter().all(|out| out.len() == columns));
    assert!(factors.is_none_or(|factors| factors.len() == pair.outputs));
    let factors = factors.map(<[f32]>::as_ptr);
    with_elements!(&pair.b, b => {
        assert!(b.len() == pair.outputs.next_multiple_of(COLUMNS) * pair.rank);
        let (mut out, mut done) = (out.map(<[f32]>::as_mut_ptr), 0);
        while done < columns {
            let (left, block) = (columns - done, column_blocks.start + done / COLUMNS);
            let factors = factors.map(|factors| factors.wrapping_add(first + done));
            // SAFETY: that many column blocks exist from here on in `b`, in every `out` and in the factors; the last one
            // may end early in those two.
            let blocks = unsafe {
                if left >= 4 * COLUMNS {
                    expand_columns::<S, _, R, 4>(s, (b, block), inner, factors, out)
                } else if left >= 2 * COLUMNS {
                    expand_columns::<S, _, R, 2>(s, (b, block), inner, factors, out)
                } else if left >= COLUMNS {
                    expand_columns::<S, _, R, 1>(s, (b, block), inner, factors, out)
                } else {
                    expand_tail::<S, _, R>(s, (b, block), inner, factors, out, left)
                }
            };
            done += blocks * COLUMNS;
            for r in 0..R {
                out[r] = out[r].wrapping_add(blocks * COLUMNS);
            }
        }
    });
}

/// C column blocks of R rows; returns C.
///
/// # Safety
/// `b` holds column blocks `block .. block + C` of `inner.len() / R` components; the factors and every `out` as many
/// times 16 elements.
#[inline(always)]
unsafe fn expand_columns<S: Simd, L: Load, const R: usize, const C: usize>(
    s: S,
    (b, block): (L, usize),
    inner: &[f32],
    factors: Option<*const f32>,
    out: [*mut f32; R],
) -> usize {
    let rank = inner.len() / R;
    // SAFETY: every access is within the column blocks and rows of the caller's promise.
    unsafe {
        let mut sums = [[s.splat(0.0); C]; R];
        if factors.is_none() {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = s.load(out[r].add(c * COLUMNS));
                }
            }
        }
        for component in 0..rank {
            let mut weights = [s.splat(0.0); C];
            for c in 0..C {
                weights[c] = b.load(s, ((block + c) * rank + component) * COLUMNS);
            }
            for r in 0..R {
                let product = s.splat(*inner.get_unchecked(r * rank + component));
                for c in 0..C {
                    sums[r][c] = s.mul_add(product, weights[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let to = out[r].add(c * COLUMNS);
                if let Some(factors) = factors {
                    let scaled = s.mul(sums[r][c], s.load(factors.add(c * COLUMNS)));
                    sums[r][c] = s.add(s.load(to), scaled);
                }
                s.store(to, sums[r][c]);
            }
        }
    }
    C
}

/// The last column block of R rows, of which `count` columns exist; returns 1.
///
/// # Safety
/// As for one column block of [`expand_columns`], but the factors and every `out` end after `count` elements.
#[inline(always)]
unsafe fn expand_tail<S: Simd, L: Load, const R: usize>(
    s: S,
    b: (L, usize),
    inner: &[f32],
    factors: Option<*const f32>,
    out: [*mut f32; R],
    count: usize,
) -> usize {
    let (mut own, mut columns) = ([[0.0f32; COLUMNS]; R], [0.0f32; COLUMNS]);
    // SAFETY: `count` elements exist behind each pointer, and the arrays have 16.
    unsafe {
        for r in 0..R {
            std::ptr::copy_nonoverlapping(out[r], own[r].as_mut_ptr(), count);
        }
        if let Some(factors) = factors {
            std::ptr::copy_nonoverlapping(factors, columns.as_mut_ptr(), count);
        }
        let mut to = [std::ptr::null_mut(); R];
        for r in 0..R {
            to[r] = own[r].as_mut_ptr();
        }
        let factors = if factors.is_some() {
            Some(columns.as_ptr())
        } else {
            None
        };
        let blocks = expand_columns::<S, L, R, 1>(s, b, inner, factors, to);
        for r in 0..R {
            std::ptr::copy_nonoverlapping(own[r].as_ptr(), out[r], count);
        }
        blocks
    }
}
