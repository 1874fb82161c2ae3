//! What adapters add to the columns of a map, after its base product.

use super::sink::{Factors, Sink};
use super::{Operands, Part, Scratch, Share};
use crate::isa::Kernel;
use crate::lora::{LowRankTerm, Term, expand};
use crate::simd::Simd;

impl Share<'_> {
    /// Adds a term to this thread's columns of a map, if the term is for that map.
    pub(super) fn add_term(&self, index: usize, term: &Term<'_>, scratch: &mut Scratch) {
        let part = &self.parts[index];
        let columns = self.columns(part);
        match term {
            Term::LowRank(at) if !columns.is_empty() => {
                let (term, start) = &self.deltas.terms[*at];
                if term.part == index {
                    self.isa.run(LowRank {
                        share: self,
                        part,
                        term,
                        start: *start,
                    });
                }
            }
            Term::Bias(term) if term.part == index && !columns.is_empty() => {
                for row in term.rows.clone() {
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
                    rows: term.rows.clone(),
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

/// A low-rank term on a thread's columns of a map.
struct LowRank<'a> {
    share: &'a Share<'a>,
    part: &'a Part<'a>,
    term: &'a LowRankTerm<'a>,
    start: usize,
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
        } = self;
        let (pairs, columns, rank) = (share.pairs(part), share.columns(part), term.pair.rank());
        for (position, row) in term.rows.clone().enumerate() {
            let inner = &share.deltas.inner[start + position * rank..][..rank];
            // SAFETY: one row at a time.
            let out = unsafe { share.row(part, &columns, row) };
            let factors = term.columns.as_deref();
            expand(s, term.pair, (inner, factors), out, pairs.start * 2..pairs.end * 2);
        }
    }
}
