//! How a register tile reads quants: one type per way of keeping them, so that the tile is compiled for each.

use crate::matrix::Line;
use crate::simd::Simd;

/// Encodings of quants.
pub(super) trait Encoding: Copy {
    /// Lines of an input block.
    const LINES: usize;
    /// What is subtracted from a quant, in eight bits, to give its value.
    const ZERO: i8;
    /// The same quants a byte each.
    type Unpacked: Encoding;
    /// Integer accumulator before the first product of a group, given the sum of its inputs.
    fn start<S: Simd>(s: S, sum: i32) -> i32;
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I;
    /// Weights of groups `2 * pair` and `2 * pair + 1` of a block whose lines start at `lines`.
    ///
    /// # Safety
    /// `LINES` lines can be read, and `pair` is below 4.
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B);
}

/// Nibbles two to a byte, of which `ZERO` is subtracted.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<const ZERO: i32>;
/// Bytes of 0..=127, of which `ZERO` is subtracted: five bits, or nibbles unpacked in a panel.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const ZERO: i32>;
/// Bytes that hold value + 128.
#[derive(Clone, Copy)]
pub(super) struct Signed;

impl<const ZERO: i32> Encoding for Nibbles<ZERO> {
    const LINES: usize = 4;
    const ZERO: i8 = ZERO as i8;
    type Unpacked = Bytes<ZERO>;
    #[inline(always)]
    fn start<S: Simd>(_s: S, sum: i32) -> i32 {
        -ZERO * sum
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I {
        s.dot_u7(acc, weights, inputs)
    }
    #[inline(always)]
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
        // SAFETY: there are four lines.
        let line = unsafe { s.load_bytes(lines.add(pair).cast()) };
        (s.low_nibbles(line), s.high_nibbles(line))
    }
}

impl<const ZERO: i32> Encoding for Bytes<ZERO> {
    const LINES: usize = 8;
    const ZERO: i8 = ZERO as i8;
    type Unpacked = Bytes<ZERO>;
    #[inline(always)]
    fn start<S: Simd>(_s: S, sum: i32) -> i32 {
        -ZERO * sum
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I {
        s.dot_u7(acc, weights, inputs)
    }
    #[inline(always)]
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
        // SAFETY: there are eight lines, by the caller's promise.
        unsafe { two_lines(s, lines, pair) }
    }
}

impl Encoding for Signed {
    const LINES: usize = 8;
    const ZERO: i8 = i8::MIN;
    type Unpacked = Self;
    #[inline(always)]
    fn start<S: Simd>(s: S, sum: i32) -> i32 {
        s.dot_u8_start(sum)
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I {
        s.dot_u8(acc, weights, inputs)
    }
    #[inline(always)]
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
        // SAFETY: there are eight lines, by the caller's promise.
        unsafe { two_lines(s, lines, pair) }
    }
}

/// Lines `2 * pair` and `2 * pair + 1`.
///
/// # Safety
/// Eight lines can be read, and `pair` is below 4.
#[inline(always)]
unsafe fn two_lines<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
    // SAFETY: `2 * pair + 1` is below 8.
    unsafe {
        (
            s.load_bytes(lines.add(2 * pair).cast()),
            s.load_bytes(lines.add(2 * pair + 1).cast()),
        )
    }
}
