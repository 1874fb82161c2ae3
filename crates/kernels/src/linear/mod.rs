//! Linear maps: `out = x W^T + deltas` for a group of maps that share their input.
//!
//! Threads share out column pairs (32 outputs), or the rows where those are many (see [`share`]); each thread runs the base
//! product of its columns for its rows, then adds the adapters' terms ([`terms`]) to them while they are in its cache. See [`tile`] for the
//! product with quantized weights, [`coarse`] for that of rows in coarse groups, [`dense`] for the one with other weights.

mod activation;
mod coarse;
mod decoded;
mod dense;
mod encoding;
mod quantized;
mod scales;
mod share;
mod sink;
mod terms;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use crate::Context;
use crate::activations::Activations;
use crate::disjoint::Disjoint;
use crate::lora::{Ahead, LowRankBatch, with_ranges};
use crate::matrix::{Line, PackedMatrix};
use share::Share;
pub(crate) use share::coarse_share;
use sink::Sink;

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
        for (rows, columns) in share::shares(x, (thread, threads)) {
            with_ranges(|ranges| {
                let share = Share {
                    isa,
                    x,
                    parts,
                    deltas,
                    ahead: terms::ahead(parts, (x.width(), &rows), deltas, columns, ranges),
                    out: &out,
                    stride,
                    rows,
                    columns,
                };
                SCRATCH.with_borrow_mut(|scratch| share.run(then, scratch));
            });
        }
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
    /// Steps of the weights of coarse columns.
    steps: Vec<f32>,
    /// Scales of rows as the tile registers' product wants them.
    #[cfg(target_arch = "x86_64")]
    inputs: Vec<tiles::InputScales>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            panel: Vec::new(),
            steps: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            inputs: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}
