//! Which rows a step reads: every pass over them in an order of its own, drawn from the seed and the number of the pass.

use crate::Random;

/// The order of rows over a whole run.
#[derive(Debug, Clone)]
pub struct Order {
    rows: usize,
    per_step: usize,
    seed: u64,
    /// The pass that `indices` is the order of.
    pass: Option<u64>,
    indices: Vec<usize>,
}

impl Order {
    /// For `rows` rows, `per_step` of them to a step, neither of which is 0.
    pub fn new(rows: usize, per_step: usize, seed: u64) -> Self {
        Self {
            rows,
            per_step,
            seed,
            pass: None,
            indices: Vec::new(),
        }
    }

    /// Steps of a pass.
    pub fn steps_per_pass(&self) -> u64 {
        self.rows.div_ceil(self.per_step) as u64
    }

    /// The rows of the step `step`, which counts from 0.
    pub fn rows_of(&mut self, step: u64) -> &[usize] {
        let pass = step / self.steps_per_pass();
        if self.pass != Some(pass) {
            self.indices = (0..self.rows).collect();
            Random::new(self.seed, &format!("order of pass {pass}")).shuffle(&mut self.indices);
            self.pass = Some(pass);
        }
        let first = (step % self.steps_per_pass()) as usize * self.per_step;
        &self.indices[first..self.rows.min(first + self.per_step)]
    }

    /// Passes done after `steps` steps, with a fraction.
    pub fn passes(&self, steps: u64) -> f64 {
        steps as f64 / self.steps_per_pass() as f64
    }
}
