//! What adapters add to the columns of a map, after its base product.

use std::ops::Range;

use super::share::{Among, Share};
use super::sink::{Factors, Sink};
use super::{Operands, Part, Scratch};
use crate::isa::Kernel;
use crate::lora::{Ahead, LowRankBatch, LowRankTerm, Term, expand};
use crate::matrix::BLOCK;
use crate::pool::share;
use crate::simd::Simd;

/// Rows of a tile of the product, for counting its steps.
const TILE: usize = 6;

/// What a thread reads of adapters for its columns, over the steps of the base product of all parts.
pub(super) fn ahead<'a>(
    parts: &[Part<'_>],
    (width, rows): (usize, &Range<usize>),
    deltas: &LowRankBatch<'_>,
    (thread, threads): Among,
    ranges: &'a mut Vec<Range<usize>>,
) -> Ahead<'a> {
    let pairs = |part: usize| share(parts[part].matrix.pairs(), thread, threads);
    let blocks = |part: usize| pairs(part).start * 2..pairs(part).end * 2;
    deltas.expand_memory(parts.len(), rows, blocks, ranges);
    let pairs: usize = (0..parts.len()).map(|part| pairs(part).len()).sum();
    // One row alone takes two pairs in a tile.
    let tiles = (pairs * rows.len().div_ceil(TILE)).div_ceil(if rows.len() == 1 { 2 } else { 1 });
    Ahead::new(ranges, tiles * (width / BLOCK))
}

impl Share<'_> {
    /// Those of some rows that are this share's.
    fn own(&self, rows: &Range<usize>) -> Range<usize> {
        let start = rows.start.max(self.rows.start);
        start..rows.end.min(self.rows.end).max(start)
    }

    /// Adds a term to this thread's columns of a map, if the term is for that map.
    pub(super) fn add_term(&self, index: usize, term: &Term<'_>, scratch: &mut Scratch) {
        let part = &self.parts[index];
        let columns = self.columns(part);
        match term {
            Term::LowRank(at) if !columns.is_empty() => {
                let (term, start) = &self.deltas.terms[*at];
                let rows = self.own(&term.rows);
                if term.part == index && !rows.is_empty() {
                    self.isa.run(LowRank {
                        share: self,
                        part,
                        term,
                        start: *start,
                        rows,
                    });
                }
            }
            Term::Bias(term) if term.part == index && !columns.is_empty() => {
                for row in self.own(&term.rows) {
                    // SAFETY: one row at a time.
                    let out = unsafe { self.row(part, &columns, row) };
                    for (out, value) in out.iter_mut().zip(&term.values[columns.clone()]) {
                        *out += value;
                    }
                }
            }
            Term::Dense(term) if term.part == index => {
                let operands = Operands {
                    x: self.x,
                    ahead: &self.ahead,
                    rows: self.own(&term.rows),
                    matrix: term.matrix,
                    sink: Sink {
                        factors: Factors::All(term.scale),
                        ..self.sink(part)
                    },
                };
                self.run_product(&operands, self.pairs(part), scratch);
            }
            _ => {}
        }
    }
}

/// Rows of a low-rank term that share what is loaded, where the instruction set has registers for them.
const ROWS: usize = 4;

/// A low-rank term on a thread's columns of a map.
struct LowRank<'a> {
    share: &'a Share<'a>,
    part: &'a Part<'a>,
    term: &'a LowRankTerm<'a>,
    start: usize,
    rows: Range<usize>,
}

impl Kernel for LowRank<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            share,
            part,
            term,
            start,
            rows,
        } = self;
        let (pairs, columns, rank) = (share.pairs(part), share.columns(part), term.pair.rank());
        let (blocks, factors) = (pairs.start * 2..pairs.end * 2, term.columns.as_deref());
        let mut row = rows.start;
        let before = (rows.start - term.rows.start) * rank;
        let mut inner = &share.deltas.inner[start + before..][..rows.len() * rank];
        while row < rows.end {
            let tile = if S::TILE_ROWS >= ROWS && rows.end - row >= ROWS {
                ROWS
            } else {
                1
            };
            let (own, rest) = inner.split_at(tile * rank);
            // SAFETY: the rows of a tile differ, and one tile is written at a time.
            unsafe {
                if tile == ROWS {
                    let out = [
                        share.row(part, &columns, row),
                        share.row(part, &columns, row + 1),
                        share.row(part, &columns, row + 2),
                        share.row(part, &columns, row + 3),
                    ];
                    expand(s, term.pair, (own, factors), out, blocks.clone());
                } else {
                    let out = [share.row(part, &columns, row)];
                    expand(s, term.pair, (own, factors), out, blocks.clone());
                }
            }
            (row, inner) = (row + tile, rest);
        }
    }
}
