//! What a thread reads next of the batch's adapters, asked for while it multiplies. With a different adapter for every
//! row, the adapters of a step are more bytes than its base: the product of a group of maps is bound by arithmetic and
//! leaves the memory idle, so the second halves of this group's pairs, and the first halves of the next one's, come into
//! the second-level cache meanwhile, a few lines at a time.

use std::cell::Cell;
use std::ops::Range;

/// Bytes that come into a cache together.
const CACHE_LINE: usize = 64;
/// Lines asked for in one step at most: a core has some sixteen under way.
const LINES: usize = 8;

/// Ranges of addresses, in the order of their use. Addresses are never read through.
pub(crate) struct Ahead<'a> {
    ranges: &'a [Range<usize>],
    /// Lines to ask for in one step.
    lines: usize,
    next: Cell<usize>,
    at: Cell<usize>,
    end: Cell<usize>,
}

impl<'a> Ahead<'a> {
    /// All of `ranges` within about `steps` steps.
    pub(crate) fn new(ranges: &'a [Range<usize>], steps: usize) -> Self {
        let lines: usize = ranges.iter().map(|range| range.len().div_ceil(CACHE_LINE)).sum();
        Self {
            ranges,
            lines: lines.div_ceil(steps.max(1)).clamp(1, LINES),
            next: Cell::new(0),
            at: Cell::new(0),
            end: Cell::new(0),
        }
    }

    /// Asks for the next few lines.
    #[inline(always)]
    pub(crate) fn step(&self) {
        let at = self.at.get();
        if at < self.end.get() {
            for line in 0..self.lines {
                prefetch(at + line * CACHE_LINE);
            }
            self.at.set(at + self.lines * CACHE_LINE);
        } else if let Some(range) = self.ranges.get(self.next.get()) {
            self.at.set(range.start);
            self.end.set(range.end);
            self.next.set(self.next.get() + 1);
        }
    }
}

/// Asks for a line of memory to be in the second-level cache soon.
#[inline(always)]
fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction; it is a hint that reads nothing and faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
