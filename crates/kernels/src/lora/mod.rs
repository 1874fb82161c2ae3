//! What adapters change of a group of maps, for a batch whose rows belong to different adapters. Mostly that is a
//! low-rank delta `y += (scale * x A^T) B^T`, each at its own rank; some adapters scale the columns of the base product
//! (DoRA), shift the outputs, or add a delta of full rank.
//!
//! The first product of a low-rank delta ("shrink") belongs to a row and runs where the row is prepared; everything else
//! belongs to columns and runs with the base product of the same columns, in the same region: nothing needs a barrier
//! of its own.

mod ahead;
mod pair;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::matrix::PackedMatrix;

pub(crate) use ahead::{Ahead, with_ranges};
pub use pair::LowRankPair;
pub(crate) use pair::{SHRINK_STEP, expand, shrink};

/// One adapter's delta on one part of a group of maps, for consecutive rows of the batch.
pub struct LowRankTerm<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Index of the map within the group (see [`crate::linear`]).
    pub part: usize,
    /// The matrices.
    pub pair: &'a LowRankPair,
    /// Factor on the delta.
    pub scale: f32,
    /// Factors on the delta, one per output (DoRA scales it as it scales the base product).
    pub columns: Option<Arc<[f32]>>,
}

/// Factors on the base product of consecutive rows, one per output, before its bias: a row's `W x` becomes `m * (W x)`.
pub struct ColumnFactors {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Index of the map within the group.
    pub part: usize,
    /// One factor per output.
    pub factors: Arc<[f32]>,
}

/// Values added to the outputs of consecutive rows.
pub struct BiasTerm<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Index of the map within the group.
    pub part: usize,
    /// One value per output.
    pub values: Cow<'a, [f32]>,
}

/// A delta of full rank for consecutive rows: `y += scale * (x D^T)`, on activations in f32.
pub struct DenseTerm<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Index of the map within the group.
    pub part: usize,
    /// The delta, of a dense format.
    pub matrix: &'a PackedMatrix,
    /// Factor on it.
    pub scale: f32,
}

/// A term in the order of pushing.
pub(crate) enum Term<'a> {
    /// Index into the low-rank terms.
    LowRank(usize),
    Bias(BiasTerm<'a>),
    Dense(DenseTerm<'a>),
}

/// All changes to a group of maps that share their input. Each output is the base product, times the row's column
/// factors, plus the map's bias; then the terms of the row are added in the order they were pushed.
#[derive(Default)]
pub struct LowRankBatch<'a> {
    pub(crate) terms: Vec<(LowRankTerm<'a>, usize)>,
    /// Products of the first halves: per term `[rows, rank]`, already scaled.
    pub(crate) inner: Vec<f32>,
    pub(crate) order: Vec<Term<'a>>,
    /// By map, then by rows, none of them empty; no two of a map share a row.
    factors: Vec<ColumnFactors>,
}

impl<'a> LowRankBatch<'a> {
    /// Memory that the first products of `rows` read, in their order, into `to`.
    pub(crate) fn shrink_memory(terms: &[(LowRankTerm<'_>, usize)], rows: &Range<usize>, to: &mut Vec<Range<usize>>) {
        let own = terms.iter().map(|(term, _)| term);
        let own = own.filter(|term| meet(&term.rows, rows));
        to.clear();
        to.extend(own.map(|term| term.pair.shrink_memory()));
    }

    /// Memory that the second products of `rows` on the column blocks `columns(part)` of each map read, in their order, into
    /// `to`.
    pub(crate) fn expand_memory(
        &self,
        parts: usize,
        rows: &Range<usize>,
        columns: impl Fn(usize) -> Range<usize>,
        to: &mut Vec<Range<usize>>,
    ) {
        to.clear();
        for part in 0..parts {
            let blocks = columns(part);
            let own = |term: &LowRankTerm<'_>| term.part == part && meet(&term.rows, rows);
            let of_part = self.terms.iter().filter(|(term, _)| own(term));
            to.extend(of_part.map(|(term, _)| term.pair.expand_memory(blocks.clone())));
        }
    }

    /// Adds a low-rank term.
    pub fn push(&mut self, term: LowRankTerm<'a>) {
        let start = self.inner.len();
        self.inner.resize(start + term.rows.len() * term.pair.rank(), 0.0);
        self.order.push(Term::LowRank(self.terms.len()));
        self.terms.push((term, start));
    }

    /// Scales the base product of rows by column.
    ///
    /// # Panics
    /// Where a row of this map has factors already.
    pub fn scale_columns(&mut self, factors: ColumnFactors) {
        if factors.rows.is_empty() {
            return;
        }
        let key = |f: &ColumnFactors| (f.part, f.rows.start);
        let at = self.factors.partition_point(|other| key(other) < key(&factors));
        let before = at.checked_sub(1).map(|index| &self.factors[index]);
        let neighbours = before.into_iter().chain(self.factors.get(at));
        for other in neighbours.filter(|other| other.part == factors.part) {
            assert!(
                other.rows.end <= factors.rows.start || factors.rows.end <= other.rows.start,
                "rows {:?} and {:?} of map {} share column factors",
                other.rows,
                factors.rows,
                factors.part
            );
        }
        self.factors.insert(at, factors);
    }

    /// Adds values to the outputs of rows.
    pub fn shift(&mut self, term: BiasTerm<'a>) {
        self.order.push(Term::Bias(term));
    }

    /// Adds a delta of full rank.
    pub fn dense(&mut self, term: DenseTerm<'a>) {
        self.order.push(Term::Dense(term));
    }

    /// Forgets all terms and keeps their memory, for terms that live elsewhere.
    pub fn reuse<'b>(mut self) -> LowRankBatch<'b> {
        self.inner.clear();
        self.factors.clear();
        LowRankBatch {
            terms: emptied(self.terms),
            inner: self.inner,
            order: emptied(self.order),
            factors: self.factors,
        }
    }

    /// One of the terms reads the rows in f32.
    pub(crate) fn has_dense_terms(&self) -> bool {
        self.order.iter().any(|term| matches!(term, Term::Dense(_)))
    }

    /// Column factors on a map, by rows.
    pub(crate) fn factors(&self, part: usize) -> &[ColumnFactors] {
        let start = self.factors.partition_point(|f| f.part < part);
        let end = self.factors.partition_point(|f| f.part <= part);
        &self.factors[start..end]
    }

    /// Panics on terms that do not fit `rows` rows of `inputs` activations.
    pub(crate) fn check(&self, rows: usize, inputs: usize) {
        for term in &self.order {
            let (of, fits) = match term {
                Term::LowRank(index) => {
                    let term = &self.terms[*index].0;
                    (&term.rows, term.pair.shape().0 == inputs)
                }
                Term::Bias(term) => (&term.rows, true),
                Term::Dense(term) => {
                    assert!(term.matrix.is_dense(), "a delta of full rank is dense");
                    (&term.rows, term.matrix.inputs() == inputs)
                }
            };
            assert!(of.end <= rows && fits, "an adapter's term does not fit its batch");
        }
        let last = self.factors.iter().map(|factors| factors.rows.end).max();
        assert!(last <= Some(rows), "column factors for rows beyond the batch");
    }

    /// Panics on terms that do not fit the maps of `outputs`, by part.
    pub(crate) fn check_outputs(&self, outputs: impl Fn(usize) -> Option<usize>) {
        let terms = self.order.iter().map(|term| match term {
            Term::LowRank(index) => {
                let LowRankTerm {
                    part, pair, columns, ..
                } = &self.terms[*index].0;
                let outputs = pair.shape().1;
                assert!(
                    columns.as_ref().is_none_or(|columns| columns.len() == outputs),
                    "factors of a low-rank term"
                );
                (*part, outputs)
            }
            Term::Bias(term) => (term.part, term.values.len()),
            Term::Dense(term) => (term.part, term.matrix.outputs()),
        });
        let factors = self.factors.iter().map(|factors| (factors.part, factors.factors.len()));
        for (part, got) in terms.chain(factors) {
            assert_eq!(Some(got), outputs(part), "outputs of an adapter's term on map {part}");
        }
    }
}

/// They share a row.
fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// The memory of a vector for elements that differ in lifetimes alone: collecting in place keeps the allocation.
fn emptied<T, U>(mut vector: Vec<T>) -> Vec<U> {
    vector.clear();
    vector.into_iter().filter_map(|_| None).collect()
}
