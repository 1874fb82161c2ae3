//! Linear maps on quantized weights: `out = x W^T + deltas` for a group of maps that share their input.
//!
//! Threads share out column pairs (32 outputs); each thread runs the base product of its columns for all rows of the
//! batch, then adds the adapters' deltas to the same columns while they are in its cache. See [`tile`] for the product.

mod dense;
mod tile;

use std::cell::RefCell;
use std::ops::Range;

use crate::Context;
use crate::activations::{Activations, Precision};
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::lora::{LowRankBatch, expand};
use crate::matrix::{COLUMNS, Line, PAIR, PackedMatrix};
use crate::pool::share;
use crate::simd::{LANES, Simd, exp};

/// One map of a group and where its outputs go in an output row.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Weights.
    pub matrix: &'a PackedMatrix,
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
    /// With a gate as part 0 and an up projection as part 1, the gate's columns become `silu(gate) * up`.
    SiluGate,
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
        // Taken out here: a closure within the kernel would be compiled without its instruction set.
        PANEL.with_borrow_mut(|panel| {
            let share = Share {
                x,
                parts,
                deltas,
                then,
                out: &out,
                stride,
                thread,
                threads,
            };
            isa.run(Run { share, panel });
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
        for (earlier, other) in parts[..index].iter().enumerate() {
            // Threads write the columns of a map without looking at another's.
            assert!(
                columns_of(part).end <= columns_of(other).start || columns_of(other).end <= columns_of(part).start,
                "maps {earlier} and {index} share columns"
            );
        }
    }
    assert!(then != Then::SiluGate || parts.len() == 2 && parts[0].matrix.outputs() == parts[1].matrix.outputs());
    deltas.check(x.rows(), x.width());
    for (term, _) in &deltas.terms {
        assert_eq!(
            term.pair.shape().1,
            parts[term.part].matrix.outputs(),
            "outputs of a low-rank term"
        );
    }
}

/// Columns of the output row that a map writes.
fn columns_of(part: &Part<'_>) -> Range<usize> {
    part.column..part.column + part.matrix.outputs()
}

/// The columns of one thread.
struct Share<'a> {
    x: &'a Activations,
    parts: &'a [Part<'a>],
    deltas: &'a LowRankBatch<'a>,
    then: Then,
    out: &'a Disjoint<'a, f32>,
    stride: usize,
    thread: usize,
    threads: usize,
}

/// A share and this thread's memory for unpacked weights.
struct Run<'a> {
    share: Share<'a>,
    panel: &'a mut Vec<Line>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { share, panel } = self;
        for (index, part) in share.parts.iter().enumerate() {
            let pairs = share.pairs(part);
            share.product(s, part, pairs.clone(), panel);
            share.add_deltas(s, index, part, pairs);
        }
        if share.then == Then::SiluGate {
            share.silu_gate(s);
        }
    }
}

thread_local! {
    /// Unpacked column pair of this thread.
    static PANEL: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Share<'_> {
    /// Equal for maps of equal shape, so that a gate and its up projection are shared out alike.
    fn pairs(&self, part: &Part<'_>) -> Range<usize> {
        share(part.matrix.pairs(), self.thread, self.threads)
    }

    fn columns(&self, part: &Part<'_>, pairs: &Range<usize>) -> Range<usize> {
        pairs.start * PAIR..(pairs.end * PAIR).min(part.matrix.outputs())
    }

    #[inline(always)]
    fn product<S: Simd>(&self, s: S, part: &Part<'_>, pairs: Range<usize>, panel: &mut Vec<Line>) {
        let add = self.then == Then::Add;
        let sink = tile::Sink {
            out: self.out,
            stride: self.stride,
            column: part.column,
            add,
        };
        let operands = tile::Operands {
            x: self.x,
            matrix: part.matrix,
            sink,
        };
        match self.x.precision() {
            Precision::Int8 => tile::product(s, &operands, pairs, panel),
            Precision::F32 => dense::product(s, &operands, pairs),
        }
    }

    #[inline(always)]
    fn add_deltas<S: Simd>(&self, s: S, index: usize, part: &Part<'_>, pairs: Range<usize>) {
        let blocks = pairs.start * 2..pairs.end * 2;
        let columns = self.columns(part, &pairs);
        if columns.is_empty() {
            return;
        }
        for (term, start) in self.deltas.terms.iter().filter(|(term, _)| term.part == index) {
            let rank = term.pair.rank();
            for (position, row) in term.rows.clone().enumerate() {
                let inner = &self.deltas.inner[start + position * rank..][..rank];
                let first = row * self.stride + part.column;
                // SAFETY: these columns are this thread's, and one row is written at a time.
                let out = unsafe { self.out.part(first + columns.start..first + columns.end) };
                expand(s, term.pair, inner, out, blocks.clone());
            }
        }
    }

    /// Replaces the gate's columns of this thread by `silu(gate) * up`.
    #[inline(always)]
    fn silu_gate<S: Simd>(&self, s: S) {
        let (gate, up) = (&self.parts[0], &self.parts[1]);
        let columns = self.columns(gate, &self.pairs(gate));
        for row in 0..self.x.rows() {
            let at = |part: &Part<'_>| {
                let first = row * self.stride + part.column;
                first + columns.start..first + columns.end
            };
            // SAFETY: both ranges are this thread's columns of two maps, which share none (`check`).
            let (gate, up) = unsafe { (self.out.part(at(gate)), self.out.part(at(up))) };
            let whole = gate.len() / LANES * LANES;
            for (gate, up) in gate[..whole].chunks_exact_mut(LANES).zip(up.chunks_exact(LANES)) {
                // SAFETY: both chunks have 16 elements.
                unsafe {
                    s.store(
                        gate.as_mut_ptr(),
                        silu_times(s, s.load(gate.as_ptr()), s.load(up.as_ptr())),
                    )
                };
            }
            let rest = gate.len() - whole;
            let (mut last_gate, mut last_up) = ([0.0; COLUMNS], [0.0; COLUMNS]);
            last_gate[..rest].copy_from_slice(&gate[whole..]);
            last_up[..rest].copy_from_slice(&up[whole..]);
            // SAFETY: both arrays have 16 elements.
            unsafe {
                let value = silu_times(s, s.load(last_gate.as_ptr()), s.load(last_up.as_ptr()));
                s.store(last_gate.as_mut_ptr(), value);
            }
            gate[whole..].copy_from_slice(&last_gate[..rest]);
        }
    }
}

/// `gate / (1 + e^-gate) * up`.
#[inline(always)]
fn silu_times<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    let denominator = s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), gate)));
    s.mul(s.div(gate, denominator), up)
}
