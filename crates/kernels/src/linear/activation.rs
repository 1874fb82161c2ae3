//! Activations of feed-forward layers, applied to output columns while they are in the cache.

use crate::isa::Kernel;
use crate::simd::{LANES, Simd, exp};

/// A function between two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: the approximation of GELU by tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `-2 sqrt(2 / pi)`: with `0.5 (1 + tanh u) = 1 / (1 + e^-2u)` the smooth activations are `x / (1 + e^y)`.
const GELU_LINEAR: f32 = -1.595_769;
/// `-2 sqrt(2 / pi) * 0.044715`.
const GELU_CUBIC: f32 = -0.071_354_814;

impl Activation {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        let exponent = match self {
            Self::Silu => s.sub(s.splat(0.0), x),
            Self::GeluTanh => s.mul(s.mul_add(s.mul(x, x), s.splat(GELU_CUBIC), s.splat(GELU_LINEAR)), x),
            // In this order NaN stays one.
            Self::Relu => return s.max(s.splat(0.0), x),
        };
        s.div(x, s.add(s.splat(1.0), exp(s, exponent)))
    }
}

/// `x = act(x)`.
pub(super) struct RunActivation<'a> {
    pub activation: Activation,
    pub x: &'a mut [f32],
}

impl Kernel for RunActivation<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activation, x } = self;
        let whole = x.len() / LANES * LANES;
        for x in x[..whole].chunks_exact_mut(LANES) {
            // SAFETY: a chunk has 16 elements.
            unsafe { s.store(x.as_mut_ptr(), activation.apply(s, s.load(x.as_ptr()))) };
        }
        let rest = &mut x[whole..];
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: the array has 16 elements.
        unsafe { s.store(last.as_mut_ptr(), activation.apply(s, s.load(last.as_ptr()))) };
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `gate = act(gate) * up`, for slices of equal length.
pub(super) struct RunGate<'a> {
    pub activation: Activation,
    pub gate: &'a mut [f32],
    pub up: &'a [f32],
}

impl Kernel for RunGate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activation, gate, up } = self;
        assert!(gate.len() == up.len());
        let whole = gate.len() / LANES * LANES;
        for (gate, up) in gate[..whole].chunks_exact_mut(LANES).zip(up.chunks_exact(LANES)) {
            // SAFETY: both chunks have 16 elements.
            unsafe {
                let value = s.mul(activation.apply(s, s.load(gate.as_ptr())), s.load(up.as_ptr()));
                s.store(gate.as_mut_ptr(), value);
            }
        }
        let rest = gate.len() - whole;
        let (mut last_gate, mut last_up) = ([0.0; LANES], [0.0; LANES]);
        last_gate[..rest].copy_from_slice(&gate[whole..]);
        last_up[..rest].copy_from_slice(&up[whole..]);
        // SAFETY: both arrays have 16 elements.
        unsafe {
            let value = s.mul(
                activation.apply(s, s.load(last_gate.as_ptr())),
                s.load(last_up.as_ptr()),
            );
            s.store(last_gate.as_mut_ptr(), value);
        }
        gate[whole..].copy_from_slice(&last_gate[..rest]);
    }
}
