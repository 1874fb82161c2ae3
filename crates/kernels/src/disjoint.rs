//! A slice that several threads write at the same time, each in parts of its own.

use std::marker::PhantomData;
use std::ops::Range;

/// Shared view of a mutable slice.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts that threads take are disjoint by the contract of `part`, so this is a `&mut [T]` split up.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as for `Sync`.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// One part.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap.
    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "the point of the type; disjointness is the caller's promise"
    )]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice (asserted), and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}

impl<T> Disjoint<'_, T> {
    /// Start of `len` elements from `start` on, of which several threads write different ones.
    ///
    /// # Safety
    /// No element is accessed by two threads at the same time.
    #[inline(always)]
    pub(crate) unsafe fn start_of(&self, start: usize, len: usize) -> *mut T {
        assert!(start + len <= self.len);
        // SAFETY: within the slice (asserted).
        unsafe { self.start.add(start) }
    }
}
