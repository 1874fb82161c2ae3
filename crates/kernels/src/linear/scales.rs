//! Where a register tile finds the scales and minima of its columns: one type per way of keeping them, so that the tile is
//! compiled for each.

use crate::matrix::{Blocks, COLUMNS};
use crate::simd::Simd;

/// Scales and minima by place, an input block of a column block.
pub(super) trait Scales: Copy {
    /// Groups of a block with scales of their own: 1 or 2.
    const GROUPS: usize;
    const MINIMA: bool;

    /// Places that all of this holds.
    fn places(self) -> usize;

    /// Scales of 16 columns.
    ///
    /// # Safety
    /// `place` is below `places`, `group` below `GROUPS`.
    unsafe fn scale<S: Simd>(self, s: S, place: usize, group: usize) -> S::F;

    /// Minima of 16 columns, given their scales; of no meaning where there are none.
    ///
    /// # Safety
    /// As `scale`.
    unsafe fn minimum<S: Simd>(self, s: S, place: usize, group: usize, scale: S::F) -> S::F;
}

/// A scale per block.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    scales: &'a [u16],
}

impl<'a> Plain<'a> {
    pub(super) fn of(blocks: &'a Blocks) -> Self {
        Self { scales: &blocks.scales }
    }
}

impl Scales for Plain<'_> {
    const GROUPS: usize = 1;
    const MINIMA: bool = false;

    fn places(self) -> usize {
        self.scales.len() / COLUMNS
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, place: usize, _group: usize) -> S::F {
        // SAFETY: the place exists, by the caller's promise.
        unsafe { s.load_f16(self.scales.as_ptr().add(place * COLUMNS)) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, s: S, _place: usize, _group: usize, _scale: S::F) -> S::F {
        s.splat(0.0)
    }
}

/// A scale and a minimum per block.
#[derive(Clone, Copy)]
pub(super) struct WithMinima<'a> {
    scales: Plain<'a>,
    minima: &'a [u16],
}

impl<'a> WithMinima<'a> {
    pub(super) fn of(blocks: &'a Blocks) -> Self {
        let (scales, minima) = (Plain::of(blocks), &blocks.minima[..]);
        assert!(scales.scales.len() == minima.len());
        Self { scales, minima }
    }
}

impl Scales for WithMinima<'_> {
    const GROUPS: usize = 1;
    const MINIMA: bool = true;

    fn places(self) -> usize {
        self.scales.places()
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, place: usize, group: usize) -> S::F {
        // SAFETY: by the caller's promise.
        unsafe { self.scales.scale(s, place, group) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, s: S, place: usize, _group: usize, _scale: S::F) -> S::F {
        // SAFETY: there are as many minima as scales.
        unsafe { s.load_f16(self.minima.as_ptr().add(place * COLUMNS)) }
    }
}

/// A scale and a zero point per block: the minimum is what the zero point comes to.
#[derive(Clone, Copy)]
pub(super) struct WithZeros<'a> {
    scales: Plain<'a>,
    /// Zero point - 128.
    zeros: &'a [i8],
}

impl<'a> WithZeros<'a> {
    pub(super) fn of(blocks: &'a Blocks) -> Self {
        let (scales, zeros) = (Plain::of(blocks), &blocks.sub_minima[..]);
        assert!(scales.scales.len() == zeros.len());
        Self { scales, zeros }
    }
}

impl Scales for WithZeros<'_> {
    const GROUPS: usize = 1;
    const MINIMA: bool = true;

    fn places(self) -> usize {
        self.scales.places()
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, place: usize, group: usize) -> S::F {
        // SAFETY: by the caller's promise.
        unsafe { self.scales.scale(s, place, group) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, s: S, place: usize, _group: usize, scale: S::F) -> S::F {
        // SAFETY: there are as many zero points as scales.
        let zero = unsafe { s.load_i8(self.zeros.as_ptr().add(place * COLUMNS)) };
        // 11 bits of scale times 8 of zero point: exact.
        s.mul(scale, s.sub(s.splat(-128.0), zero))
    }
}

/// A scale per super-block of 8 input blocks, times a factor for each of `GROUPS` groups of a block; minima likewise.
#[derive(Clone, Copy)]
pub(super) struct TwoLevels<'a, const GROUPS: usize, const MINIMA: bool> {
    scales: Level<'a>,
    minima: Level<'a>,
}

/// Values of super-blocks and factors of groups.
#[derive(Clone, Copy)]
struct Level<'a> {
    upper: &'a [u16],
    lower: &'a [i8],
}

/// Input blocks of a super-block.
const BLOCKS: usize = 8;

impl<'a, const GROUPS: usize, const MINIMA: bool> TwoLevels<'a, GROUPS, MINIMA> {
    pub(super) fn of(blocks: &'a Blocks) -> Self {
        let level = |upper: &'a [u16], lower: &'a [i8]| Level { upper, lower };
        let scales = level(&blocks.scales, &blocks.sub_scales);
        let minima = level(&blocks.minima, &blocks.sub_minima);
        assert!(scales.upper.len() * BLOCKS * GROUPS == scales.lower.len());
        assert!(!MINIMA || scales.upper.len() == minima.upper.len() && scales.lower.len() == minima.lower.len());
        Self { scales, minima }
    }
}

impl Level<'_> {
    /// # Safety
    /// `group`, counted over all places, exists, and so does its super-block.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, group: usize, super_block: usize) -> S::F {
        // SAFETY: by the caller's promise. 11 bits times 8: the product is exact.
        unsafe {
            s.mul(
                s.load_f16(self.upper.as_ptr().add(super_block * COLUMNS)),
                s.load_i8(self.lower.as_ptr().add(group * COLUMNS)),
            )
        }
    }
}

impl<const GROUPS: usize, const MINIMA: bool> Scales for TwoLevels<'_, GROUPS, MINIMA> {
    const GROUPS: usize = GROUPS;
    const MINIMA: bool = MINIMA;

    fn places(self) -> usize {
        self.scales.upper.len() / COLUMNS * BLOCKS
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, place: usize, group: usize) -> S::F {
        // SAFETY: every place has its groups and is part of a super-block (`of`).
        unsafe { self.scales.load(s, place * GROUPS + group, place / BLOCKS) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(self, s: S, place: usize, group: usize, _scale: S::F) -> S::F {
        if !MINIMA {
            return s.splat(0.0);
        }
        // SAFETY: there are as many minima as scales.
        unsafe { self.minima.load(s, place * GROUPS + group, place / BLOCKS) }
    }
}
