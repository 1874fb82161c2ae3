//! Values of a tape and their gradients.

use std::rc::Rc;

use rootstock_kernels::training::add_rows;

use super::Tape;

/// A value of a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(pub(super) usize);

pub(super) struct Node {
    /// Rows of `width` elements; empty once nobody needs them, and while they are put away.
    pub values: Vec<f32>,
    /// The same in bfloat16, while they are put away.
    pub rounded: Vec<u16>,
    /// Elements, also when they are gone.
    pub len: usize,
    pub width: usize,
    /// Something trained lies behind it.
    pub needs: bool,
    /// A residual sum hands one gradient to both of its terms.
    pub gradient: Option<Rc<Vec<f32>>>,
}

impl Tape<'_, '_> {
    pub(super) fn push(&mut self, values: Vec<f32>, width: usize, needs: bool) -> Value {
        self.nodes.push(Node {
            len: values.len(),
            values,
            rounded: Vec::new(),
            width,
            needs,
            gradient: None,
        });
        Value(self.nodes.len() - 1)
    }

    /// A value without a history, whose gradient is asked for.
    pub fn input(&mut self, values: &[f32], width: usize) -> Value {
        let values = self.machine.memory.copy(values);
        self.push(values, width, true)
    }

    /// A value that nothing trained has entered.
    pub fn constant(&mut self, values: &[f32], width: usize) -> Value {
        let values = self.machine.memory.copy(values);
        self.push(values, width, false)
    }

    /// The elements of a value, row by row.
    pub fn values(&self, value: Value) -> &[f32] {
        &self.nodes[value.0].values
    }

    /// Takes the elements of a value that nothing reads again.
    pub fn take_values(&mut self, value: Value) -> Vec<f32> {
        std::mem::take(&mut self.nodes[value.0].values)
    }

    /// Whether anything trained lies behind a value.
    pub fn needs(&self, value: Value) -> bool {
        self.nodes[value.0].needs
    }

    /// Gives back what is left of a value's elements.
    pub(super) fn release(&mut self, value: Value) {
        let node = &mut self.nodes[value.0];
        let (values, rounded) = (std::mem::take(&mut node.values), std::mem::take(&mut node.rounded));
        self.machine.memory.give(values);
        self.machine.memory.give_halves(rounded);
    }

    /// The gradient that has been found for a value.
    pub fn gradient(&self, value: Value) -> Option<&[f32]> {
        self.nodes[value.0]
            .gradient
            .as_ref()
            .map(|gradient| gradient.as_slice())
    }

    pub(super) fn take_gradient(&mut self, value: Value) -> Option<Rc<Vec<f32>>> {
        self.nodes[value.0].gradient.take()
    }

    /// Gives a value the gradient of another that is not used again.
    pub fn move_gradient(&mut self, from: Value, to: Value) {
        if let Some(gradient) = self.take_gradient(from) {
            self.pass_gradient(to, gradient);
        }
    }

    /// Adds a gradient to what has been found for a value.
    pub(super) fn pass_gradient(&mut self, to: Value, gradient: Rc<Vec<f32>>) {
        if !self.needs(to) {
            self.machine.memory.give_shared(gradient);
            return;
        }
        match self.take_gradient(to) {
            None => self.nodes[to.0].gradient = Some(gradient),
            Some(before) => {
                let mut sum = self.owned(before);
                add_rows(self.machine.context, &gradient, &mut sum);
                self.machine.memory.give_shared(gradient);
                self.nodes[to.0].gradient = Some(Rc::new(sum));
            }
        }
    }

    /// Sets the gradient of a value.
    pub fn set_gradient(&mut self, value: Value, gradient: Vec<f32>) {
        self.pass_gradient(value, Rc::new(gradient));
    }

    /// A gradient that nobody else has.
    pub(super) fn owned(&mut self, gradient: Rc<Vec<f32>>) -> Vec<f32> {
        Rc::try_unwrap(gradient).unwrap_or_else(|shared| self.machine.memory.copy(&shared))
    }

    /// What has been found for a value so far, to be added to: zeros if nothing has, and whether that is so.
    pub(super) fn gradient_so_far(&mut self, value: Value, clear: bool) -> (Vec<f32>, bool) {
        match self.take_gradient(value) {
            Some(before) => (self.owned(before), true),
            None => {
                let len = self.nodes[value.0].len;
                let memory = &mut self.machine.memory;
                (if clear { memory.zeros(len) } else { memory.take(len) }, false)
            }
        }
    }
}
