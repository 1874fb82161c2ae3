//! Activation functions, alone and times a second input.

use std::ops::Range;

use super::rows::{Part, chunks, elements, share_rows};
use crate::disjoint::Disjoint;
use crate::simd::{LANES, Simd, exp};
use crate::{Activation, Context};

/// `to = activation(gate) * up`.
///
/// # Panics
/// On slices of different lengths, or one that is no multiple of 16.
pub fn gated(context: &mut Context, activation: Activation, gate: &[f32], up: &[f32], to: &mut [f32]) {
    assert!(gate.len() == up.len());
    forward(context, activation, gate, Some(up), to);
}

/// `to = activation(x)`.
///
/// # Panics
/// As [`gated`].
pub fn activate(context: &mut Context, activation: Activation, x: &[f32], to: &mut [f32]) {
    forward(context, activation, x, None, to);
}

fn forward(context: &mut Context, activation: Activation, gate: &[f32], up: Option<&[f32]>, to: &mut [f32]) {
    assert!(gate.len() == to.len() && gate.len().is_multiple_of(LANES));
    let part = Forward {
        activation,
        gate,
        up,
        to: Disjoint::new(to),
    };
    share_rows(context, chunks(gate.len()), &part);
}

struct Forward<'a> {
    activation: Activation,
    gate: &'a [f32],
    up: Option<&'a [f32]>,
    to: Disjoint<'a, f32>,
}

impl Part for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, chunks: Range<usize>) {
        for at in elements(chunks, self.gate.len()).step_by(LANES) {
            // SAFETY: chunks are shared out, and lengths are multiples of 16.
            let to = unsafe { self.to.part(at..at + LANES) };
            // SAFETY: sixteen elements each.
            unsafe {
                let (value, _) = value_and_slope(s, self.activation, s.load(self.gate[at..at + LANES].as_ptr()));
                let value = match self.up {
                    Some(up) => s.mul(value, s.load(up[at..at + LANES].as_ptr())),
                    None => value,
                };
                s.store(to.as_mut_ptr(), value);
            }
        }
    }
}

/// Gradients of an activation's inputs; overwritten.
#[derive(Debug)]
pub struct ActivationGradient<'a> {
    /// Of what the activation is applied to.
    pub gate: &'a mut [f32],
    /// Of the second input.
    pub up: &'a mut [f32],
}

/// The way back through [`gated`] from the gradient of its result.
///
/// # Panics
/// As [`gated`].
pub fn gated_backward(
    context: &mut Context,
    activation: Activation,
    (gate, up): (&[f32], &[f32]),
    gradient: &[f32],
    to: ActivationGradient<'_>,
) {
    assert!(gate.len() == up.len() && to.up.len() == gate.len());
    backward(context, activation, (gate, Some(up)), gradient, (to.gate, Some(to.up)));
}

/// The way back through [`activate`]: overwrites `to`.
///
/// # Panics
/// As [`gated`].
pub fn activate_backward(context: &mut Context, activation: Activation, x: &[f32], gradient: &[f32], to: &mut [f32]) {
    backward(context, activation, (x, None), gradient, (to, None));
}

fn backward(
    context: &mut Context,
    activation: Activation,
    (gate, up): (&[f32], Option<&[f32]>),
    gradient: &[f32],
    (to_gate, to_up): (&mut [f32], Option<&mut [f32]>),
) {
    assert!(gate.len() == gradient.len() && gate.len() == to_gate.len() && gate.len().is_multiple_of(LANES));
    let part = Backward {
        activation,
        gate,
        up,
        gradient,
        to_gate: Disjoint::new(to_gate),
        to_up: to_up.map(Disjoint::new),
    };
    share_rows(context, chunks(gate.len()), &part);
}

struct Backward<'a> {
    activation: Activation,
    gate: &'a [f32],
    up: Option<&'a [f32]>,
    gradient: &'a [f32],
    to_gate: Disjoint<'a, f32>,
    to_up: Option<Disjoint<'a, f32>>,
}

impl Part for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, chunks: Range<usize>) {
        for at in elements(chunks, self.gate.len()).step_by(LANES) {
            let range = at..at + LANES;
            // SAFETY: chunks are shared out, lengths are multiples of 16; every slice has sixteen elements in the range.
            unsafe {
                let (value, slope) = value_and_slope(s, self.activation, s.load(self.gate[range.clone()].as_ptr()));
                let gradient = s.load(self.gradient[range.clone()].as_ptr());
                let mut to_gate = s.mul(gradient, slope);
                if let (Some(up), Some(to_up)) = (self.up, &self.to_up) {
                    to_gate = s.mul(to_gate, s.load(up[range.clone()].as_ptr()));
                    s.store(to_up.part(range.clone()).as_mut_ptr(), s.mul(gradient, value));
                }
                s.store(self.to_gate.part(range).as_mut_ptr(), to_gate);
            }
        }
    }
}

/// `max(x, 0)` and its derivative, 0 at 0.
#[inline(always)]
fn relu<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let value = s.max(s.splat(0.0), x);
    // A positive value by itself, else 0 by the smallest number that is not.
    (value, s.div(value, s.max(value, s.splat(f32::MIN_POSITIVE))))
}

/// The function and its derivative.
///
/// With `t` the sigmoid of `k(x)`, the smooth kinds are `x * t`: `k = x` for SiLU, `k = 2 sqrt(2 / pi) (x + 0.044715 x^3)` for
/// GELU's tanh form, since `(1 + tanh(a)) / 2` is the sigmoid of `2 a`. The derivative is `t + x * t * (1 - t) * k'`.
#[inline(always)]
fn value_and_slope<S: Simd>(s: S, activation: Activation, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let (inner, inner_slope) = match activation {
        Activation::Silu => (x, one),
        Activation::GeluTanh => {
            let factor = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
            let square = s.mul(x, x);
            let inner = s.mul(s.splat(factor), s.mul(x, s.mul_add(s.splat(0.044_715), square, one)));
            let slope = s.mul(s.splat(factor), s.mul_add(s.splat(3.0 * 0.044_715), square, one));
            (inner, slope)
        }
        Activation::Relu => return relu(s, x),
    };
    let sigmoid = s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), inner))));
    let value = s.mul(x, sigmoid);
    let slope = s.mul_add(s.mul(value, s.sub(one, sigmoid)), inner_slope, sigmoid);
    (value, slope)
}
