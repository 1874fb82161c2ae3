//! Causal attention over whole sequences, for training: nothing is cached, and only queries, keys and values are kept for
//! the way back.
//!
//! ```text
//! for each sequence and each head of keys, tasks that threads take in turn:
//!   for each block of queries (all query heads of the group, one below the other):
//!     P = softmax(scale * Q K^T)           keys that the block sees; the others are 0
//!     forward:   O = P V
//!     backward:  dP = dO V^T;  dS = scale * P * (dP - sum(P * dP))
//!                dQ = dS K;  dK += dS^T Q;  dV += P^T dO
//! ```
//!
//! P is computed again on the way back, as in FlashAttention (Dao et al., 2022): memory grows with the length of a sequence
//! times a block, not with its square.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::disjoint::Disjoint;
use crate::gemm::{Gemm, Right, View, multiply_alone};
use crate::isa::Kernel;
use crate::simd::{LANES, Simd, exp};
use crate::{AttentionHeads, Context};

/// Rows of a block of queries, all heads of a group together, at most (at least one position).
const BLOCK_ROWS: usize = 96;

/// Queries `[rows, heads * head_dim]`, keys and values `[rows, kv_heads * head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// Queries.
    pub queries: &'a [f32],
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Which rows attend to which.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape<'a> {
    /// Heads, their width, the factor on scores, the window.
    pub heads: &'a AttentionHeads,
    /// Rows of each sequence, one after another from 0: a row sees those before it in its own sequence.
    pub segments: &'a [Range<usize>],
}

/// Gradients of the inputs, each of its input's shape; overwritten.
#[derive(Debug)]
pub struct AttentionGradients<'a> {
    /// Of the queries.
    pub queries: &'a mut [f32],
    /// Of the keys.
    pub keys: &'a mut [f32],
    /// Of the values.
    pub values: &'a mut [f32],
}

/// Attention of every row, into `out` of the queries' shape.
///
/// # Panics
/// On shapes that do not fit together.
pub fn attend_segments(context: &mut Context, shape: AttentionShape<'_>, inputs: AttentionInputs<'_>, out: &mut [f32]) {
    shape.check(inputs);
    assert_eq!(out.len(), inputs.queries.len());
    let out = Disjoint::new(out);
    run(context, shape, |task| Forward {
        task,
        inputs,
        out: &out,
    });
}

/// Gradients of the inputs from `gradient`, that of what [`attend_segments`] gave.
///
/// # Panics
/// On shapes that do not fit together.
pub fn attend_segments_backward(
    context: &mut Context,
    shape: AttentionShape<'_>,
    inputs: AttentionInputs<'_>,
    gradient: &[f32],
    to: AttentionGradients<'_>,
) {
    shape.check(inputs);
    assert_eq!(gradient.len(), inputs.queries.len());
    assert_eq!(to.queries.len(), inputs.queries.len());
    assert!(to.keys.len() == inputs.keys.len() && to.values.len() == inputs.values.len());
    let to = [to.queries, to.keys, to.values].map(Disjoint::new);
    run(context, shape, |task| Backward {
        task,
        inputs,
        gradient,
        to: &to,
    });
}

impl AttentionShape<'_> {
    fn check(&self, inputs: AttentionInputs<'_>) {
        let AttentionHeads {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.heads;
        let rows = self.segments.last().map_or(0, |segment| segment.end);
        let mut next = 0;
        for segment in self.segments {
            assert!(
                segment.start == next && segment.end >= next,
                "segments follow each other"
            );
            next = segment.end;
        }
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(LANES));
        assert_eq!(inputs.queries.len(), rows * heads * head_dim);
        let width = kv_heads * head_dim;
        assert!(inputs.keys.len() == rows * width && inputs.values.len() == rows * width);
    }
}

/// One sequence and one head of keys.
#[derive(Clone, Copy)]
struct Task<'a> {
    shape: AttentionShape<'a>,
    segment: usize,
    kv_head: usize,
}

/// Runs a kernel per task, longest wait first: threads take the next task when they are done with one.
fn run<'a, K: Kernel<Output = ()>>(
    context: &mut Context,
    shape: AttentionShape<'a>,
    kernel: impl Fn(Task<'a>) -> K + Sync,
) {
    let (isa, kv_heads) = (context.isa, shape.heads.kv_heads);
    let (next, tasks) = (AtomicUsize::new(0), shape.segments.len() * kv_heads);
    context.pool.run(|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            isa.run(kernel(Task {
                shape,
                segment: index / kv_heads,
                kv_head: index % kv_heads,
            }));
        }
    });
}

/// Some consecutive queries of a task, and the keys that any of them sees.
struct Block {
    /// Positions in rows of the batch.
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Task<'_> {
    fn group(&self) -> usize {
        self.shape.heads.heads / self.shape.heads.kv_heads
    }

    /// Tokens that a row sees; all before it where there is no window.
    fn window(&self) -> usize {
        self.shape.heads.window.map_or(usize::MAX, NonZeroUsize::get)
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let segment = self.shape.segments[self.segment].clone();
        let (size, window) = ((BLOCK_ROWS / self.group()).max(1), self.window());
        segment.clone().step_by(size).map(move |start| {
            let end = segment.end.min(start + size);
            Block {
                queries: start..end,
                keys: segment.start.max((start + 1).saturating_sub(window))..end,
            }
        })
    }

    /// The keys or values of this head for some rows, as `[rows, head_dim]`.
    fn of_head<'a>(&self, values: &'a [f32], rows: &Range<usize>) -> View<'a> {
        let AttentionHeads { kv_heads, head_dim, .. } = *self.shape.heads;
        let (stride, start) = (kv_heads * head_dim, self.kv_head * head_dim);
        View::strided(&values[rows.start * stride + start..], rows.len(), head_dim, stride)
    }

    /// Where head `member` of the group lies in the row of queries `row`.
    fn query(&self, row: usize, member: usize) -> Range<usize> {
        let AttentionHeads { heads, head_dim, .. } = *self.shape.heads;
        let start = (row * heads + self.kv_head * self.group() + member) * head_dim;
        start..start + head_dim
    }

    /// Rows of queries of a block, heads of the group one below the other: `[group * queries, head_dim]`.
    fn gather(&self, from: &[f32], block: &Block, to: &mut Vec<f32>) {
        to.clear();
        for member in 0..self.group() {
            for row in block.queries.clone() {
                to.extend_from_slice(&from[self.query(row, member)]);
            }
        }
    }

    /// The inverse of [`Self::gather`].
    fn scatter(&self, from: &[f32], block: &Block, to: &Disjoint<'_, f32>) {
        let mut rows = from.chunks_exact(self.shape.heads.head_dim);
        for member in 0..self.group() {
            for (row, from) in block.queries.clone().zip(&mut rows) {
                // SAFETY: the queries of a row and a head belong to one task.
                unsafe { to.part(self.query(row, member)) }.copy_from_slice(from);
            }
        }
    }

    /// Probabilities of a block `[group * queries, keys]` from its queries.
    #[inline(always)]
    fn probabilities<S: Simd>(&self, s: S, block: &Block, queries: &[f32], keys: View<'_>, to: &mut Vec<f32>) {
        let heads = self.shape.heads;
        let (count, width) = (block.queries.len(), block.keys.len());
        to.resize(self.group() * count * width, 0.0);
        let product = Gemm {
            scale: heads.scale,
            ..Gemm::new(View::new(queries, heads.head_dim), Right::Dense(keys.transposed()))
        };
        multiply_alone(s, &product, (to, width));
        for (index, row) in to.chunks_exact_mut(width).enumerate() {
            let query = block.queries.start + index % count;
            let first = (query + 1).saturating_sub(self.window());
            let seen = first.saturating_sub(block.keys.start)..query + 1 - block.keys.start;
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            softmax(s, &mut row[seen]);
        }
    }
}

/// Exponentials relative to the largest, divided by their sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, row: &mut [f32]) {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for chunk in row.chunks(LANES) {
        largest = s.max(largest, load(s, chunk, f32::NEG_INFINITY));
    }
    let largest = s.splat(s.maximum(largest));
    let mut sum = s.splat(0.0);
    for chunk in row.chunks_mut(LANES) {
        let weights = exp(s, s.sub(load(s, chunk, f32::NEG_INFINITY), largest));
        let weights = s.keep(weights, chunk.len(), 0.0);
        sum = s.add(sum, weights);
        store(s, chunk, weights);
    }
    let factor = 1.0 / s.sum(sum);
    row.iter_mut().for_each(|weight| *weight *= factor);
}

/// Up to sixteen elements, `fill` beyond them.
#[inline(always)]
fn load<S: Simd>(s: S, from: &[f32], fill: f32) -> S::F {
    let mut lanes = [fill; LANES];
    lanes[..from.len()].copy_from_slice(from);
    // SAFETY: sixteen elements.
    unsafe { s.load(lanes.as_ptr()) }
}

/// The first of sixteen elements.
#[inline(always)]
fn store<S: Simd>(s: S, to: &mut [f32], value: S::F) {
    let mut lanes = [0.0; LANES];
    // SAFETY: sixteen elements.
    unsafe { s.store(lanes.as_mut_ptr(), value) };
    to.copy_from_slice(&lanes[..to.len()]);
}

struct Forward<'a> {
    task: Task<'a>,
    inputs: AttentionInputs<'a>,
    out: &'a Disjoint<'a, f32>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.task;
        let width = task.shape.heads.head_dim;
        let (mut queries, mut weights, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for block in task.blocks() {
            task.gather(self.inputs.queries, &block, &mut queries);
            let keys = task.of_head(self.inputs.keys, &block.keys);
            task.probabilities(s, &block, &queries, keys, &mut weights);
            out.resize(queries.len(), 0.0);
            let values = task.of_head(self.inputs.values, &block.keys);
            let product = Gemm::new(View::new(&weights, block.keys.len()), Right::Dense(values));
            multiply_alone(s, &product, (&mut out, width));
            task.scatter(&out, &block, self.out);
        }
    }
}

struct Backward<'a> {
    task: Task<'a>,
    inputs: AttentionInputs<'a>,
    gradient: &'a [f32],
    to: &'a [Disjoint<'a, f32>; 3],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (task, inputs) = (self.task, self.inputs);
        let width = task.shape.heads.head_dim;
        let segment = task.shape.segments[task.segment].clone();
        let mut of_keys = vec![0.0; segment.len() * width];
        let mut of_values = vec![0.0; segment.len() * width];
        let [mut queries, mut gradient, mut weights, mut scores, mut of_queries] = [(); 5].map(|()| Vec::new());
        for block in task.blocks() {
            task.gather(inputs.queries, &block, &mut queries);
            task.gather(self.gradient, &block, &mut gradient);
            let keys = task.of_head(inputs.keys, &block.keys);
            let values = task.of_head(inputs.values, &block.keys);
            task.probabilities(s, &block, &queries, keys, &mut weights);
            let (seen, gradients) = (block.keys.len(), View::new(&gradient, width));
            scores.resize(weights.len(), 0.0);
            let product = Gemm::new(gradients, Right::Dense(values.transposed()));
            multiply_alone(s, &product, (&mut scores, seen));
            for (weights, scores) in weights.chunks_exact(seen).zip(scores.chunks_exact_mut(seen)) {
                softmax_backward(weights, scores, task.shape.heads.scale);
            }
            of_queries.resize(queries.len(), 0.0);
            let product = Gemm::new(View::new(&scores, seen), Right::Dense(keys));
            multiply_alone(s, &product, (&mut of_queries, width));
            task.scatter(&of_queries, &block, &self.to[0]);
            let at = (block.keys.start - segment.start) * width;
            let sums = [
                (&scores, View::new(&queries, width), &mut of_keys),
                (&weights, gradients, &mut of_values),
            ];
            for (left, right, to) in sums {
                let product = Gemm {
                    accumulate: true,
                    ..Gemm::new(View::new(left, seen).transposed(), Right::Dense(right))
                };
                multiply_alone(s, &product, (&mut to[at..], width));
            }
        }
        self.put(1, &segment, &of_keys);
        self.put(2, &segment, &of_values);
    }
}

impl Backward<'_> {
    /// Writes the gradients of this head's keys or values.
    fn put(&self, which: usize, segment: &Range<usize>, from: &[f32]) {
        let heads = self.task.shape.heads;
        for (row, from) in segment.clone().zip(from.chunks_exact(heads.head_dim)) {
            let start = (row * heads.kv_heads + self.task.kv_head) * heads.head_dim;
            // SAFETY: a head of keys of a sequence belongs to one task.
            unsafe { self.to[which].part(start..start + heads.head_dim) }.copy_from_slice(from);
        }
    }
}

/// Gradients of scores from those of probabilities, in place.
#[inline(always)]
fn softmax_backward(weights: &[f32], gradients: &mut [f32], scale: f32) {
    let mut sums = [0.0f32; LANES];
    for (weights, gradients) in weights.chunks(LANES).zip(gradients.chunks(LANES)) {
        for ((sum, weight), gradient) in sums.iter_mut().zip(weights).zip(gradients) {
            *sum += weight * gradient;
        }
    }
    let sum: f32 = sums.iter().sum();
    for (weight, gradient) in weights.iter().zip(gradients) {
        *gradient = scale * weight * (*gradient - sum);
    }
}
