//! What a run will take, before it does: time from a batch that is measured, memory and disk from shapes.

use std::time::Instant;

use rootstock_decoder::Learn;
use serde::Serialize;

use super::trainer::batch;
use super::{MemoryPlan, Row, Trainer};
use crate::TrainError;

/// Tokens of the batch that is measured: enough to keep all threads busy, and a second or two on a small model.
const MEASURED_TOKENS: usize = 512;
/// Beside its values, what a tensor takes in a file.
const HEADER: u64 = 128;

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Plan {
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens read, repeated ones each time.
    pub tokens: u64,
    /// Tokens evaluated, repeated ones each time.
    pub eval_tokens: u64,
    /// Of training, as measured.
    pub tokens_per_second: f64,
    /// Of it all.
    pub seconds: f64,
    /// At most at a time.
    pub memory: MemoryPlan,
    /// Its files.
    #[serde(flatten)]
    pub disk: DiskPlan,
}

/// What a run writes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// At the end: files of the adapter, or of the model.
    pub output_bytes: u64,
    /// Checkpoints, at most at a time.
    pub checkpoint_bytes: u64,
}

impl DiskPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.output_bytes.saturating_add(self.checkpoint_bytes)
    }
}

impl Trainer<'_> {
    /// Plans the run from where it is; computes a batch for it and leaves what is trained as it is. `output_bytes` is what the
    /// files of a model will take, where no adapter is written.
    ///
    /// # Errors
    /// A device that fails.
    pub fn plan(&mut self, output_bytes: Option<u64>) -> Result<Plan, TrainError> {
        let (steps, total) = (self.total_steps() - self.step, self.total_steps());
        let counted = |row: &Row| -> u64 { row.iter().map(|sample| sample.len() as u64).sum() };
        let mut order = self.order.clone();
        let tokens = (self.step..total).map(|step| {
            let rows = order.rows_of(step).iter();
            rows.map(|&row| counted(&self.rows[row])).sum::<u64>()
        });
        let tokens = tokens.sum();
        let every = self.settings.eval_steps;
        let between = (total - 1).checked_div(every).unwrap_or(0) - self.step.checked_div(every).unwrap_or(0);
        let eval_tokens = (between + 1) * self.eval_rows.iter().map(counted).sum::<u64>();
        let tokens_per_second = self.measure()?;
        // The way back costs as much as the way there, and twice with what is computed again.
        let passes = if self.engine.checkpointing() { 3.0 } else { 2.0 };
        Ok(Plan {
            steps,
            tokens,
            eval_tokens,
            tokens_per_second,
            seconds: (tokens as f64 + eval_tokens as f64 / passes) / tokens_per_second,
            memory: self.memory(),
            disk: self.disk(output_bytes),
        })
    }

    /// Tokens per second of a batch, measured the second time: the first time brings memory and code in.
    fn measure(&mut self) -> Result<f64, TrainError> {
        let first: Vec<usize> = self.order.rows_of(self.step).to_vec();
        let mut tokens = 0;
        let fits = |row: &&usize| {
            let before = tokens;
            tokens += self.rows[**row].iter().map(|sample| sample.len()).sum::<usize>();
            before == 0 || tokens <= MEASURED_TOKENS
        };
        let rows: Vec<usize> = first
            .iter()
            .take(self.at_a_time.training)
            .take_while(fits)
            .copied()
            .collect();
        let batch = batch(rows.iter().map(|&row| &self.rows[row]));
        let learn = Learn {
            weight: 1.0,
            dropout_key: 0,
        };
        let mut rate = 0.0;
        for _ in 0..2 {
            let start = Instant::now();
            let (engine, subject) = self.subject();
            engine.step(subject, &batch, Some(learn))?;
            rate = batch.tokens().len() as f64 / start.elapsed().as_secs_f64();
        }
        self.attached.parameters.clear_gradients();
        Ok(rate)
    }

    /// What the run writes from where it is; `output` are the files of a model, where no adapter is written.
    pub fn disk(&self, output: Option<u64>) -> DiskPlan {
        let steps = self.total_steps() - self.step;
        let moments = self.settings.optimizer.moments;
        let (mut adapter, mut state) = (0, 0);
        let copies = if self.settings.patience.is_some() { 2 } else { 1 };
        for parameter in self.attached.parameters.iter() {
            let elements = parameter.values.len();
            let initial = parameter.initial.as_ref().map_or(0, Vec::len);
            adapter += HEADER + 4 * (elements + initial) as u64;
            state += HEADER + (4 * copies * elements + moments.bytes(elements)) as u64;
        }
        let written = steps.checked_div(self.settings.save_steps).unwrap_or(0);
        // A new one is complete before the oldest is removed.
        let at_a_time = written.min(self.settings.save_total_limit as u64 + 1);
        let output = output.unwrap_or(adapter);
        DiskPlan {
            output_bytes: output,
            checkpoint_bytes: at_a_time.saturating_mul(output + state),
        }
    }
}
