//! Memory of rows, used again from layer to layer and from step to step.

use std::rc::Rc;

/// Vectors that nobody uses.
#[derive(Debug, Default)]
pub struct Memory {
    free: Vec<Vec<f32>>,
}

impl Memory {
    /// A vector of `len` elements of no particular value.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = |values: &Vec<f32>| values.capacity() >= len && values.capacity() / 2 <= len;
        let sizes = self.free.iter().enumerate().filter(|(_, values)| fits(values));
        let best = sizes.min_by_key(|(_, values)| values.capacity());
        let mut values = match best.map(|(index, _)| index) {
            Some(index) => self.free.swap_remove(index),
            None => Vec::with_capacity(len),
        };
        values.resize(len, 0.0);
        values
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

    /// Takes a vector back once nobody else has it.
    pub(super) fn give_shared(&mut self, values: Rc<Vec<f32>>) {
        if let Ok(values) = Rc::try_unwrap(values) {
            self.give(values);
        }
    }

    /// Bytes of what nobody uses.
    pub fn bytes(&self) -> usize {
        let elements = self.free.iter().map(Vec::capacity);
        elements.sum::<usize>() * size_of::<f32>()
    }

    /// Returns everything to the system: the next pass has other shapes.
    pub fn clear(&mut self) {
        self.free.clear();
    }
}
