//! What a thread reads next of the batch's adapters, asked for ahead of its use. With a different adapter for every row,
//! the adapters of a step are more bytes than its base, in pieces of a few KB, which end before the processor's own
//! prefetchers have found their pace. The first halves are asked for a little ahead of the products that read them; the
//! second halves while the base product, which is bound by arithmetic, leaves the memory idle.
//!
//! Tried and lost: asking for the next group's first halves too while the base multiplies. A core has some sixteen lines
//! under way, and then the product waits for its own.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::simd::{CacheLevel, prefetch};

/// Bytes that come into a cache together.
const CACHE_LINE: usize = 64;
/// Lines asked for in one step at most: a core has some sixteen under way.
const LINES: usize = 8;

/// Bytes between what is read and what is asked for.
const LEAD: usize = 4096;

thread_local! {
    static RANGES: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// Runs with this thread's memory for ranges.
pub(crate) fn with_ranges<R>(run: impl FnOnce(&mut Vec<Range<usize>>) -> R) -> R {
    RANGES.with_borrow_mut(run)
}

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

    /// All of `ranges` in the pace of their reading: `bytes` in a step.
    pub(crate) fn paced(ranges: &'a [Range<usize>], bytes: usize) -> Self {
        let ahead = Self {
            lines: bytes.div_ceil(CACHE_LINE),
            ..Self::new(ranges, 1)
        };
        (0..LEAD.div_ceil(bytes.max(1))).for_each(|_| ahead.step());
        ahead
    }

    /// Asks for the next few lines.
    #[inline(always)]
    pub(crate) fn step(&self) {
        let at = self.at.get();
        if at < self.end.get() {
            for line in 0..self.lines {
                prefetch::<u8>(std::ptr::without_provenance(at + line * CACHE_LINE), CacheLevel::Second);
            }
            self.at.set(at + self.lines * CACHE_LINE);
        } else if let Some(range) = self.ranges.get(self.next.get()) {
            self.at.set(range.start);
            self.end.set(range.end);
            self.next.set(self.next.get() + 1);
        }
    }
}
