//! Cross entropy of rows of logits with one target each, and its gradient in the logits' place.

use std::ops::Range;

use super::rows::{Part, share_rows};
use crate::Context;
use crate::disjoint::Disjoint;
use crate::simd::{LANES, Simd, exp};

/// What is learned from rows of logits.
#[derive(Debug, Clone, Copy)]
pub struct Entropy<'a> {
    /// The right token of every row, below the number of columns.
    pub targets: &'a [u32],
    /// Factor on the gradient; 0 leaves the logits' place undefined and saves the time.
    pub weight: f32,
}

/// Writes `-log softmax(logits)[target]` of every row to `losses`, and overwrites the logits with their gradient.
///
/// # Panics
/// On shapes that do not fit together, or a target that is no column.
pub fn cross_entropy(context: &mut Context, entropy: Entropy<'_>, logits: &mut [f32], losses: &mut [f32]) {
    let rows = entropy.targets.len();
    assert!(rows > 0 && losses.len() == rows && logits.len().is_multiple_of(rows));
    let columns = logits.len() / rows;
    assert!(entropy.targets.iter().all(|&target| (target as usize) < columns));
    let part = Rows {
        entropy,
        columns,
        logits: Disjoint::new(logits),
        losses: Disjoint::new(losses),
    };
    share_rows(context, rows, &part);
}

struct Rows<'a> {
    entropy: Entropy<'a>,
    columns: usize,
    logits: Disjoint<'a, f32>,
    losses: Disjoint<'a, f32>,
}

impl Part for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, rows: Range<usize>) {
        for row in rows {
            // SAFETY: rows are shared out.
            let (logits, loss) = unsafe {
                let logits = self.logits.part(row * self.columns..(row + 1) * self.columns);
                (logits, self.losses.part(row..row + 1))
            };
            loss[0] = one(s, logits, self.entropy.targets[row] as usize, self.entropy.weight);
        }
    }
}

/// The loss of one row; its gradient in place.
#[inline(always)]
fn one<S: Simd>(s: S, logits: &mut [f32], target: usize, weight: f32) -> f32 {
    let whole = logits.len() / LANES * LANES;
    let mut largest = s.splat(f32::NEG_INFINITY);
    for chunk in logits.chunks_exact(LANES) {
        // SAFETY: sixteen elements.
        largest = s.max(largest, unsafe { s.load(chunk.as_ptr()) });
    }
    let rest = logits[whole..].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = s.maximum(largest).max(rest);
    let right = logits[target];
    let mut sums = s.splat(0.0);
    for chunk in logits.chunks_exact_mut(LANES) {
        // SAFETY: sixteen elements.
        unsafe {
            let power = exp(s, s.sub(s.load(chunk.as_ptr()), s.splat(largest)));
            sums = s.add(sums, power);
            s.store(chunk.as_mut_ptr(), power);
        }
    }
    let mut sum = s.sum(sums);
    for value in &mut logits[whole..] {
        *value = (*value - largest).exp();
        sum += *value;
    }
    if weight != 0.0 {
        let factor = weight / sum;
        logits.iter_mut().for_each(|value| *value *= factor);
        logits[target] -= weight;
    }
    // A logit that is not a number shows in the loss, whatever vectors made of it.
    if right.is_nan() {
        right
    } else {
        sum.ln() + largest - right
    }
}
