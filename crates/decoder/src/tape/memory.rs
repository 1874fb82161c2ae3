//! Memory of rows, used again from layer to layer and from step to step.

use std::rc::Rc;

/// Vectors that nobody uses.
#[derive(Debug, Default)]
pub struct Memory {
    free: Vec<Vec<f32>>,
    /// Of values that were rounded.
    halves: Vec<Vec<u16>>,
}

impl Memory {
    /// A vector of `len` elements of no particular value.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        best(&mut self.free, len)
    }

    /// The same for bfloat16.
    pub(super) fn take_halves(&mut self, len: usize) -> Vec<u16> {
        best(&mut self.halves, len)
    }

    /// A vector of zeros.
    pub(super) fn zeros(&mut self, len: usize) -> Vec<f32> {
        let mut values = self.take(len);
        values.fill(0.0);
        values
    }

    /// A copy.
    pub(super) fn copy(&mut self, from: &[f32]) -> Vec<f32> {
        let mut values = self.take(from.len());
        values.copy_from_slice(from);
        values
    }

    /// Takes a vector back.
    pub(super) fn give(&mut self, values: Vec<f32>) {
        if values.capacity() > 0 {
            self.free.push(values);
        }
    }

    /// The same for bfloat16.
    pub(super) fn give_halves(&mut self, values: Vec<u16>) {
        if values.capacity() > 0 {
            self.halves.push(values);
        }
    }

    /// Takes a vector back once nobody else has it.
    pub(super) fn give_shared(&mut self, values: Rc<Vec<f32>>) {
        if let Ok(values) = Rc::try_unwrap(values) {
            self.give(values);
        }
    }

    /// Bytes of what nobody uses.
    pub fn bytes(&self) -> usize {
        let elements: usize = self.free.iter().map(Vec::capacity).sum();
        let halves: usize = self.halves.iter().map(Vec::capacity).sum();
        elements * size_of::<f32>() + halves * size_of::<u16>()
    }

    /// Returns everything to the system: the next pass has other shapes.
    pub fn clear(&mut self) {
        self.free.clear();
        self.halves.clear();
    }
}

/// The smallest vector of at least `len` elements that is not twice as long, or a new one.
fn best<T: Copy + Default>(free: &mut Vec<Vec<T>>, len: usize) -> Vec<T> {
    let fits = |values: &Vec<T>| values.capacity() >= len && values.capacity() / 2 <= len;
    let sizes = free.iter().enumerate().filter(|(_, values)| fits(values));
    let best = sizes.min_by_key(|(_, values)| values.capacity());
    let mut values = match best.map(|(index, _)| index) {
        Some(index) => free.swap_remove(index),
        None => Vec::with_capacity(len),
    };
    values.resize(len, T::default());
    values
}
