//! A task: queries of consecutive rows of one sequence over the pages of one key/value head.
//!
//! ```text
//! for each tile of up to Q queries (rows in order, the heads of a row together):
//!   queries [dims / 16][Q][16]   scaled
//!   scores  [pages][Q][16]       of every page that one of the queries sees
//!   softmax of each query over its own tokens
//!   sums    [dims / 16][Q][16]   first each query's tokens that not all see (a window), then those that all see
//!                                together, then the rest again one by one
//! ```
//!
//! What a query does not see never enters its sums: it may be another sequence's, or nobody's and no number.
//! Memory is laid out so that what one step of an inner loop reads lies at fixed distances from one pointer.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::AttentionHeads;
use super::products::{score, weigh};
use super::softmax::softmax;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::kv::{BLOCK_TOKENS, KvElement};
use crate::simd::{LANES, Simd};

/// One vector, in one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    #[inline(always)]
    pub(super) fn get<S: Simd>(&self, s: S) -> S::F {
        // SAFETY: sixteen elements.
        unsafe { s.load(self.0.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn set<S: Simd>(&mut self, s: S, value: S::F) {
        // SAFETY: sixteen elements.
        unsafe { s.store(self.0.as_mut_ptr(), value) }
    }
}

/// The pages of one key/value head that a task sees.
pub(super) struct Pages<'a, E> {
    /// First element of the head's page in block 0.
    pub(super) start: usize,
    /// Elements from a block to the next.
    pub(super) stride: usize,
    /// Elements of a page.
    pub(super) page: usize,
    pub(super) keys: &'a [E],
    pub(super) values: &'a [E],
    /// From the page of the first token that the first row sees to that of the last row.
    pub(super) blocks: &'a [u32],
}

impl<E> Pages<'_, E> {
    /// Start of page `index` in keys or values; of the last page beyond it.
    #[inline(always)]
    pub(super) fn at(&self, of: &[E], index: usize) -> *const E {
        let block = self.blocks[index.min(self.blocks.len() - 1)];
        let start = self.start + block as usize * self.stride;
        of[start..start + self.page].as_ptr()
    }
}

/// What the rows of a task see, in tokens from the start of the first page that the first row sees.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    position: usize,
    window: Option<NonZeroUsize>,
}

impl Seen {
    /// For rows from `position` on.
    pub(super) fn new(heads: &AttentionHeads, position: usize) -> Self {
        Self {
            position,
            window: heads.window,
        }
    }

    fn first(&self, end: usize) -> usize {
        self.window.map_or(0, |window| end.saturating_sub(window.get()))
    }

    /// Index in the sequence of the first page that the first row sees.
    pub(super) fn first_page(&self) -> usize {
        self.first(self.position + 1) / BLOCK_TOKENS
    }

    fn tokens(&self, row: usize) -> Range<usize> {
        let (end, before) = (self.position + row + 1, self.first_page() * BLOCK_TOKENS);
        self.first(end) - before..end - before
    }
}

pub(super) struct Task<'a, E> {
    pub(super) heads: &'a AttentionHeads,
    pub(super) kv_head: usize,
    pub(super) pages: Pages<'a, E>,
    pub(super) seen: Seen,
    pub(super) rows: Range<usize>,
    /// The rows' queries, keys and values.
    pub(super) qkv: &'a [f32],
    pub(super) memory: &'a mut Vec<Lanes>,
    pub(super) out: &'a Disjoint<'a, f32>,
}

impl<E: KvElement> Kernel for Task<'_, E> {
    type Output = ();

    /// All queries in nearly equal tiles. Sizes that the instruction set has no registers for are not compiled.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let most = S::TILE_SUMS;
        let queries = self.rows.len() * self.group();
        let tiles = queries.div_ceil((most / 2).max(6));
        for index in 0..tiles {
            let range = crate::pool::share(queries, index, tiles);
            match range.len() {
                1 => self.tile::<S, 1, 4>(s, range),
                2 if most >= 8 => self.tile::<S, 2, 4>(s, range),
                2 => self.tile::<S, 2, 2>(s, range),
                3 if most >= 12 => self.tile::<S, 3, 4>(s, range),
                3 => self.tile::<S, 3, 2>(s, range),
                4 if most >= 16 => self.tile::<S, 4, 4>(s, range),
                4 => self.tile::<S, 4, 1>(s, range),
                5 | 6 if most >= 24 => self.tile::<S, 6, 4>(s, range),
                5 | 6 => self.tile::<S, 6, 1>(s, range),
                7 | 8 if most >= 24 => self.tile::<S, 8, 2>(s, range),
                9..=12 if most >= 24 => self.tile::<S, 12, 2>(s, range),
                _ => unreachable!("a tile has at most {} queries", most / 2),
            }
        }
    }
}

impl<E: KvElement> Task<'_, E> {
    /// Query heads of a key/value head.
    #[inline(always)]
    fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    /// Row, counted from the first of the task, and head of a query.
    #[inline(always)]
    fn query(&self, index: usize) -> (usize, usize) {
        (index / self.group(), self.kv_head * self.group() + index % self.group())
    }

    /// Tokens that a query sees.
    #[inline(always)]
    fn tokens(&self, query: usize) -> Range<usize> {
        self.seen.tokens(self.query(query).0)
    }

    /// `queries` of the task, at most Q of them, in tiles of Q by W: scores of W pages together, values of W vectors.
    #[inline(always)]
    fn tile<S: Simd, const Q: usize, const W: usize>(&mut self, s: S, queries: Range<usize>) {
        let vectors = self.heads.head_dim / LANES;
        let (first, last) = (self.tokens(queries.start), self.tokens(queries.end - 1));
        let pages = first.start / BLOCK_TOKENS..last.end.div_ceil(BLOCK_TOKENS);
        let needed = (2 * vectors + pages.end) * Q;
        let mut memory = std::mem::take(self.memory);
        if memory.len() < needed {
            memory.resize(needed, Lanes([0.0; LANES]));
        }
        let (packed, rest) = memory.split_at_mut(vectors * Q);
        let (sums, scores) = rest.split_at_mut(vectors * Q);
        self.pack::<S, Q>(s, queries.clone(), packed);
        score::<S, E, Q, W>(s, &self.pages, pages, packed, scores);
        let mut totals = [1.0; Q];
        for (q, query) in queries.clone().enumerate() {
            totals[q] = softmax::<S, Q>(s, self.tokens(query), &mut scores[q..]);
        }
        sums.fill(Lanes([0.0; LANES]));
        let common = last.start..first.end.max(last.start);
        for (q, query) in queries.clone().enumerate() {
            let Range { start, end } = self.tokens(query);
            weigh::<S, E, Q, 1, 4>(s, &self.pages, start..end.min(common.start), (q, scores), sums);
        }
        weigh::<S, E, Q, Q, W>(s, &self.pages, common.clone(), (0, scores), sums);
        for (q, query) in queries.clone().enumerate() {
            let end = self.tokens(query).end;
            weigh::<S, E, Q, 1, 4>(s, &self.pages, common.end..end, (q, scores), sums);
        }
        self.finish::<S, Q>(s, queries, sums, totals);
        *self.memory = memory;
    }

    /// Queries times the scale, `[dims / 16][Q][16]`, zero for those that are missing.
    #[inline(always)]
    fn pack<S: Simd, const Q: usize>(&self, s: S, queries: Range<usize>, packed: &mut [Lanes]) {
        let dim = self.heads.head_dim;
        for q in 0..Q {
            for vector in 0..dim / LANES {
                let mut value = s.splat(0.0);
                if q < queries.len() {
                    let (row, head) = self.query(queries.start + q);
                    let from = &self.qkv[row * self.heads.qkv_width() + head * dim + vector * LANES..][..LANES];
                    // SAFETY: sixteen elements.
                    value = s.mul(unsafe { s.load(from.as_ptr()) }, s.splat(self.heads.scale));
                }
                packed[vector * Q + q].set(s, value);
            }
        }
    }

    /// Writes the sums divided by their totals.
    #[inline(always)]
    fn finish<S: Simd, const Q: usize>(&self, s: S, queries: Range<usize>, sums: &[Lanes], totals: [f32; Q]) {
        let dim = self.heads.head_dim;
        for (q, query) in queries.enumerate() {
            let (row, head) = self.query(query);
            let start = (self.rows.start + row) * self.heads.width() + head * dim;
            // SAFETY: every task has its own rows and heads.
            let out = unsafe { self.out.part(start..start + dim) };
            let factor = s.splat(1.0 / totals[q]);
            for (vector, out) in out.chunks_exact_mut(LANES).enumerate() {
                // SAFETY: sixteen elements.
                unsafe { s.store(out.as_mut_ptr(), s.mul(sums[vector * Q + q].get(s), factor)) };
            }
        }
    }
}
