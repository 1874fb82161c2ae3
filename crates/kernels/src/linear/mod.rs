//! Linear maps: `out = x W^T + deltas` for a group of maps that share their input.
//!
//! Threads share out column pairs (32 outputs); each thread runs the base product of its columns for all rows of the
//! batch, then adds the adapters' terms ([`terms`]) to the same columns while they are in its cache. See [`tile`] for the
//! product with quantized weights, [`dense`] for the one with others.

mod activation;
mod decoded;
mod dense;
mod encoding;
mod quantized;
mod scales;
mod sink;
mod terms;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use crate::Context;
use crate::activations::{Activations, Precision};
use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::lora::{Ahead, LowRankBatch, with_ranges};
use crate::matrix::{Line, PAIR, PackedMatrix, Weights};
use crate::pool::share;
use activation::{RunActivation, RunGate};
use sink::{Factors, Sink};

pub use activation::Activation;

/// One map of a group and where its outputs go in an output row.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Weights.
    pub matrix: &'a PackedMatrix,
    /// Added to the products: one value per output.
    pub bias: Option<&'a [f32]>,
    /// Column of the output row that takes output 0.
    pub column: usize,
}

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// They replace the output.
    Store,
    /// They are added to it: the residual stream.
    Add,
    /// They replace the output; with a gate as part 0 and an up projection as part 1, the gate's columns become
    /// `act(gate) * up`.
    Gate(Activation),
    /// They replace the output, and every column becomes `act(column)`.
    Activate(Activation),
}

/// Runs a group of maps on all rows of `x`. `out` has `x.rows()` rows of `stride` elements, in which every map has columns
/// of its own.
///
/// # Panics
/// On shapes that do not fit together.
pub fn linear(
    context: &mut Context,
    x: &Activations,
    parts: &[Part<'_>],
    deltas: &LowRankBatch<'_>,
    then: Then,
    (out, stride): (&mut [f32], usize),
) {
    check(x, parts, deltas, then, out.len(), stride);
    let (threads, isa) = (context.pool.threads(), context.isa);
    let out = Disjoint::new(out);
    context.pool.run(|thread| {
        with_ranges(|ranges| {
            let share = Share {
                isa,
                x,
                parts,
                deltas,
                ahead: terms::ahead(parts, x, deltas, (thread, threads), ranges),
                out: &out,
                stride,
                thread,
                threads,
            };
            SCRATCH.with_borrow_mut(|scratch| share.run(then, scratch));
        });
    });
}

fn check(x: &Activations, parts: &[Part<'_>], deltas: &LowRankBatch<'_>, then: Then, len: usize, stride: usize) {
    assert!(
        x.rows().checked_mul(stride).is_some_and(|needed| len >= needed),
        "the output has {len} elements for {} rows of {stride}",
        x.rows()
    );
    for (index, part) in parts.iter().enumerate() {
        assert_eq!(part.matrix.inputs(), x.width(), "inputs of map {index}");
        assert!(
            part.column <= stride && part.matrix.outputs() <= stride - part.column,
            "outputs of map {index} do not fit the output row"
        );
        assert!(
            part.bias.is_none_or(|bias| bias.len() == part.matrix.outputs()),
            "the bias of map {index} does not fit its outputs"
        );
        for (earlier, other) in parts[..index].iter().enumerate() {
            // Threads write the columns of a map without looking at another's.
            assert!(
                columns_of(part).end <= columns_of(other).start || columns_of(other).end <= columns_of(part).start,
                "maps {earlier} and {index} share columns"
            );
        }
    }
    assert!(
        !matches!(then, Then::Gate(_)) || parts.len() == 2 && parts[0].matrix.outputs() == parts[1].matrix.outputs(),
        "a gate and its up projection are two maps with as many outputs"
    );
    deltas.check(x.rows(), x.width());
    deltas.check_outputs(|part| parts.get(part).map(|part| part.matrix.outputs()));
}

/// Columns of the output row that a map writes.
fn columns_of(part: &Part<'_>) -> Range<usize> {
    part.column..part.column + part.matrix.outputs()
}

/// The columns of one thread.
struct Share<'a> {
    isa: Isa,
    x: &'a Activations,
    parts: &'a [Part<'a>],
    deltas: &'a LowRankBatch<'a>,
    ahead: Ahead<'a>,
    out: &'a Disjoint<'a, f32>,
    stride: usize,
    thread: usize,
    threads: usize,
}

/// What a product reads and writes.
struct Operands<'a> {
    x: &'a Activations,
    /// To be stepped on with every block of a tile.
    ahead: &'a Ahead<'a>,
    /// Rows of `x` that take part.
    rows: Range<usize>,
    matrix: &'a PackedMatrix,
    sink: Sink<'a>,
}

/// Memory of a thread for its products.
struct Scratch {
    /// Unpacked columns.
    panel: Vec<Line>,
    /// Scales of rows as the tile registers' product wants them.
    #[cfg(target_arch = "x86_64")]
    inputs: Vec<tiles::InputScales>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            panel: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            inputs: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

impl Share<'_> {
    /// Equal for maps of equal shape, so that a gate and its up projection are shared out alike.
    fn pairs(&self, part: &Part<'_>) -> Range<usize> {
        share(part.matrix.pairs(), self.thread, self.threads)
    }

    /// Columns of this thread in a map's outputs.
    fn columns(&self, part: &Part<'_>) -> Range<usize> {
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
    unsafe fn row(&self, part: &Part<'_>, columns: &Range<usize>, row: usize) -> &mut [f32] {
        let first = row * self.stride + part.column;
        // SAFETY: columns of one thread, by `pairs`, and of one map, which share none (`check`); exclusive within this
        // thread by the caller's promise.
        unsafe { self.out.part(first + columns.start..first + columns.end) }
    }

    /// Everything on this thread's columns. What is generic over the instruction set starts at the kernels below: each is
    /// compiled once, however many maps and terms run through it.
    fn run(&self, then: Then, scratch: &mut Scratch) {
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
            rows: 0..self.x.rows(),
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

    fn run_product(&self, operands: &Operands<'_>, pairs: Range<usize>, scratch: &mut Scratch) {
        match (&operands.matrix.weights, self.x.precision()) {
            (Weights::Dense(elements), _) => dense::product(self.isa, operands, elements, pairs),
            (Weights::Quantized(blocks), Precision::Int8) => {
                quantized::product(self.isa, operands, blocks, pairs, scratch);
            }
            (Weights::Quantized(blocks), Precision::F32) => {
                self.isa.run(decoded::Product {
                    operands,
                    blocks,
                    pairs,
                });
            }
        }
    }

    /// Adds what goes there to the columns of a map.
    fn sink(&self, part: &Part<'_>) -> Sink<'_> {
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
        for row in 0..self.x.rows() {
            // SAFETY: one row at a time of two maps, which share no columns (`check`).
            let (gate, up) = unsafe { (self.row(gate, &columns, row), self.row(up, &columns, row)) };
            self.isa.run(RunGate { activation, gate, up });
        }
    }

    /// Applies the function to this thread's columns of every map.
    fn activate(&self, activation: Activation) {
        for part in self.parts {
            let columns = self.columns(part);
            for row in 0..self.x.rows() {
                // SAFETY: one row at a time.
                let x = unsafe { self.row(part, &columns, row) };
                self.isa.run(RunActivation { activation, x });
            }
        }
    }
}
