//! What one thread does of a group of maps: its columns of all rows, or all columns of its rows.
//!
//! Columns read the weights once; with many rows that must be expanded (see [`super::coarse`]), rows are better: what a thread
//! prepared it also multiplies, and nothing crosses from one core's cache to another's.

use std::ops::Range;

use super::activation::{Activation, RunActivation, RunGate};
use super::sink::{Factors, Sink};
use super::{Operands, Part, Scratch, Then, coarse, decoded, dense, quantized};
use crate::activations::{Activations, Precision, TILE_ROWS};
use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::lora::{Ahead, LowRankBatch};
use crate::matrix::{PAIR, Weights};
use crate::pool::share;

/// Coarse rows of each thread from which they are shared out by rows: by then expanding the weights in every thread counts for
/// little.
const MANY_ROWS: usize = 96;

/// Index of a thread among those that share something out, and their number.
pub(super) type Among = (usize, usize);

/// Rows of a thread and those among which it shares their columns: first the rows rounded finely, then the coarse ones.
pub(super) fn shares(x: &Activations, (thread, threads): Among) -> impl Iterator<Item = (Range<usize>, Among)> {
    let (rows, coarse_from) = (x.rows(), x.coarse_from());
    let coarse = if rows - coarse_from >= MANY_ROWS * threads {
        (coarse_share(coarse_from..rows, (thread, threads)), (0, 1))
    } else {
        (coarse_from..rows, (thread, threads))
    };
    let all = [(0..coarse_from, (thread, threads)), coarse];
    all.into_iter().filter(|(rows, _)| !rows.is_empty())
}

/// The coarse rows of a thread: whole tiles.
pub(crate) fn coarse_share(rows: Range<usize>, (thread, threads): Among) -> Range<usize> {
    let tiles = share(rows.len().div_ceil(TILE_ROWS), thread, threads);
    let row = |tile: usize| rows.end.min(rows.start + tile * TILE_ROWS);
    row(tiles.start)..row(tiles.end)
}

/// The rows and columns of one thread.
pub(super) struct Share<'a> {
    pub(super) isa: Isa,
    pub(super) x: &'a Activations,
    pub(super) parts: &'a [Part<'a>],
    pub(super) deltas: &'a LowRankBatch<'a>,
    pub(super) ahead: Ahead<'a>,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) stride: usize,
    pub(super) rows: Range<usize>,
    /// Those among which the columns of these rows are shared out.
    pub(super) columns: Among,
}

impl Share<'_> {
    /// Equal for maps of equal shape, so that a gate and its up projection are shared out alike.
    pub(super) fn pairs(&self, part: &Part<'_>) -> Range<usize> {
        share(part.matrix.pairs(), self.columns.0, self.columns.1)
    }

    /// Columns of this thread in a map's outputs.
    pub(super) fn columns(&self, part: &Part<'_>) -> Range<usize> {
        let pairs = self.pairs(part);
        pairs.start * PAIR..(pairs.end * PAIR).min(part.matrix.outputs())
    }

    /// Columns of this thread of one row of a map.
    ///
    /// # Safety
    /// No other reference to these elements is alive.
    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "as `Disjoint::part`: disjointness is the caller's promise"
    )]
    pub(super) unsafe fn row(&self, part: &Part<'_>, columns: &Range<usize>, row: usize) -> &mut [f32] {
        let first = row * self.stride + part.column;
        // SAFETY: columns of one thread, by `pairs`, and of one map, which share none (`check`); exclusive within this
        // thread by the caller's promise.
        unsafe { self.out.part(first + columns.start..first + columns.end) }
    }

    /// Everything on this thread's columns. What is generic over the instruction set starts at the kernels below: each is
    /// compiled once, however many maps and terms run through it.
    pub(super) fn run(&self, then: Then, scratch: &mut Scratch) {
        for index in 0..self.parts.len() {
            self.product(index, then, scratch);
            for term in &self.deltas.order {
                self.add_term(index, term, scratch);
            }
        }
        match then {
            Then::Store | Then::Add => {}
            Then::Gate(activation) => self.gate(activation),
            Then::Activate(activation) => self.activate(activation),
        }
    }

    /// The base product of a map, to the output.
    fn product(&self, index: usize, then: Then, scratch: &mut Scratch) {
        let part = &self.parts[index];
        let operands = Operands {
            x: self.x,
            ahead: &self.ahead,
            rows: self.rows.clone(),
            matrix: part.matrix,
            sink: Sink {
                add: then == Then::Add,
                factors: Factors::Rows(self.deltas.factors(index)),
                bias: part.bias,
                ..self.sink(part)
            },
        };
        self.run_product(&operands, self.pairs(part), scratch);
    }

    pub(super) fn run_product(&self, operands: &Operands<'_>, pairs: Range<usize>, scratch: &mut Scratch) {
        match (&operands.matrix.weights, self.x.precision()) {
            (Weights::Dense(elements), _) => dense::product(self.isa, operands, elements, pairs),
            (Weights::Quantized(blocks), Precision::Int8) => {
                let job = quantized::Job {
                    isa: self.isa,
                    operands,
                    blocks,
                    pairs,
                    scratch,
                };
                if self.rows.start >= self.x.coarse_from() {
                    coarse::product(job);
                } else {
                    quantized::product(job);
                }
            }
            (Weights::Quantized(_), Precision::F32) | (Weights::Nf4(_), _) => {
                self.isa.run(decoded::Product { operands, pairs });
            }
        }
    }

    /// Adds what goes there to the columns of a map.
    pub(super) fn sink(&self, part: &Part<'_>) -> Sink<'_> {
        Sink {
            out: self.out,
            stride: self.stride,
            column: part.column,
            outputs: part.matrix.outputs(),
            add: true,
            factors: Factors::Rows(&[]),
            bias: None,
        }
    }

    /// Replaces the gate's columns of this thread by `act(gate) * up`.
    fn gate(&self, activation: Activation) {
        let (gate, up) = (&self.parts[0], &self.parts[1]);
        let columns = self.columns(gate);
        for row in self.rows.clone() {
            // SAFETY: one row at a time of two maps, which share no columns (`check`).
            let (gate, up) = unsafe { (self.row(gate, &columns, row), self.row(up, &columns, row)) };
            self.isa.run(RunGate { activation, gate, up });
        }
    }

    /// Applies the function to this thread's columns of every map.
    fn activate(&self, activation: Activation) {
        for part in self.parts {
            let columns = self.columns(part);
            for row in self.rows.clone() {
                // SAFETY: one row at a time.
                let x = unsafe { self.row(part, &columns, row) };
                self.isa.run(RunActivation { activation, x });
            }
        }
    }
}
