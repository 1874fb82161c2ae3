//! Values kept in bfloat16 until the way back asks for them, in half the bytes.

use std::ops::Range;

use super::rows::{Part, chunks, elements, share_rows};
use crate::Context;
use crate::disjoint::Disjoint;
use crate::gemm::round_bits;
use crate::simd::Simd;

/// `to = from`, each the nearest bfloat16 (its bits), ties to even.
///
/// # Panics
/// On slices of different lengths.
pub fn round_values(context: &mut Context, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    let chunks = chunks(from.len());
    let part = Round {
        from,
        to: Disjoint::new(to),
    };
    share_rows(context, chunks, &part);
}

struct Round<'a> {
    from: &'a [f32],
    to: Disjoint<'a, u16>,
}

impl Part for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, chunks: Range<usize>) {
        let range = elements(chunks, self.from.len());
        // SAFETY: chunks are shared out.
        let to = unsafe { self.to.part(range.clone()) };
        to.iter_mut()
            .zip(&self.from[range])
            .for_each(|(to, value)| *to = round_bits(*value));
    }
}

/// `to = from`, bits of bfloat16.
///
/// # Panics
/// On slices of different lengths.
pub fn widen_values(context: &mut Context, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let chunks = chunks(from.len());
    let part = Widen {
        from,
        to: Disjoint::new(to),
    };
    share_rows(context, chunks, &part);
}

struct Widen<'a> {
    from: &'a [u16],
    to: Disjoint<'a, f32>,
}

impl Part for Widen<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, chunks: Range<usize>) {
        let range = elements(chunks, self.from.len());
        // SAFETY: chunks are shared out.
        let to = unsafe { self.to.part(range.clone()) };
        to.iter_mut()
            .zip(&self.from[range])
            .for_each(|(to, bits)| *to = f32::from_bits(u32::from(*bits) << 16));
    }
}
