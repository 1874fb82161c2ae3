//! Memory: what a run takes at most, and fewer rows at a time where that is more than there is. Which rows make a step, and the
//! tokens that its loss is a mean over, stay as they are, so that the numbers change by rounding alone (and by what dropout
//! drops, which goes by the place in a batch).

use std::ops::Range;

use rootstock_decoder::{DecoderError, Footprint, StepShapes};
use serde::Serialize;

use super::Trainer;
use crate::adapter::Attached;
use crate::records::Warning;
use crate::{TrainError, memory};

/// What the program takes without a model: code, stacks of threads, what the allocator keeps for itself.
const PROGRAM: u64 = 24 << 20;

/// Bytes that a run takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The program itself.
    pub program: u64,
    /// Frozen weights.
    pub model: u64,
    /// Trained tensors, what they began with where that counts, their gradients, the optimizer's moments, and the best values
    /// where they are put back.
    pub trained: u64,
    /// Rows in tokens.
    pub rows: u64,
    /// Values that wait for the way back.
    pub activations: u64,
    /// Gradients of values, and operands that are rounded for a product.
    pub gradients: u64,
    /// Logits.
    pub logits: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.fixed() + self.activations + self.gradients + self.logits
    }

    /// What does not depend on how many rows are computed at a time.
    fn fixed(&self) -> u64 {
        self.program + self.model + self.trained + self.rows
    }
}

/// What goes over several rows at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Training,
    Evaluation,
}

impl Trainer<'_> {
    /// What the rest of the run takes with as many rows at a time as now.
    pub fn memory(&self) -> MemoryPlan {
        let steps = self.step..self.total_steps();
        let [training, evaluation] = [Pass::Training, Pass::Evaluation].map(|pass| self.largest(pass, steps.clone()));
        let largest = if training.bytes() >= evaluation.bytes() {
            training
        } else {
            evaluation
        };
        MemoryPlan {
            activations: largest.activations as u64,
            gradients: largest.gradients as u64,
            logits: largest.logits as u64,
            ..self.standing()
        }
    }

    /// Rows that are computed at a time.
    pub fn rows_at_a_time(&self) -> usize {
        self.at_a_time.training
    }

    /// Takes fewer rows at a time where the memory that there is asks for it; what is to be told of that.
    ///
    /// # Errors
    /// One row at a time is too much.
    pub fn fit(&mut self) -> Result<Vec<Warning>, TrainError> {
        let steps = self.step..self.total_steps();
        let mut warnings = Vec::new();
        for pass in [Pass::Training, Pass::Evaluation] {
            match self.fit_pass(pass, steps.clone()) {
                (warning, None) => warnings.extend(warning),
                (_, Some([needed, room])) => {
                    return Err(TrainError::Memory {
                        needed,
                        room,
                        advice: self.advice(),
                    });
                }
            }
        }
        Ok(warnings)
    }

    /// The same for the step that comes, if it is larger than all before it. What other programs take may have changed since the
    /// run began. A step that does not fit even so is tried: most of a run may be behind it.
    pub(super) fn fit_step(&mut self) -> Option<Warning> {
        let steps = self.step..self.step + 1;
        let largest = self.largest(Pass::Training, steps.clone()).bytes();
        if largest <= self.seen {
            return None;
        }
        let (warning, _) = self.fit_pass(Pass::Training, steps.clone());
        self.seen = self.seen.max(self.largest(Pass::Training, steps).bytes());
        warning
    }

    /// Halves the rows at a time until they fit; where one does not, what it needs and what there is.
    fn fit_pass(&mut self, pass: Pass, steps: Range<u64>) -> (Option<Warning>, Option<[u64; 2]>) {
        let Some(room) = self.settings.memory_limit.or_else(memory::room) else {
            return (None, None);
        };
        let before = self.at_a_time.of(pass);
        let standing = self.standing().fixed();
        let needs = |trainer: &Self| standing + trainer.largest(pass, steps.clone()).bytes() as u64;
        let needed = needs(self);
        let mut now = needed;
        while now > room && self.at_a_time.of(pass) > 1 {
            *self.at_a_time.of_mut(pass) = self.at_a_time.of(pass).div_ceil(2);
            now = needs(self);
        }
        let rows = [before, self.at_a_time.of(pass)];
        let warning = (rows[0] != rows[1]).then_some(Warning::BatchHalved {
            step: self.step,
            rows,
            needed,
            room,
        });
        (warning, (now > room).then_some([now, room]))
    }

    /// Half as many rows at a time from now on, after a device had too little memory for a batch; what is to be told of that.
    ///
    /// # Errors
    /// Any other failure, or one row at a time is too much.
    pub(super) fn halve_after(&mut self, pass: Pass, failure: DecoderError) -> Result<Warning, TrainError> {
        let rows = self.at_a_time.of(pass);
        if rows == 1 || !matches!(failure, DecoderError::OutOfMemory(_)) {
            return Err(failure.into());
        }
        *self.at_a_time.of_mut(pass) = rows.div_ceil(2);
        Ok(Warning::DeviceFull {
            step: self.step,
            rows: [rows, rows.div_ceil(2)],
        })
    }

    /// What stands from the first step to the last.
    fn standing(&self) -> MemoryPlan {
        let moments = self.settings.optimizer.moments;
        let parameters = self.attached.parameters.iter();
        let initial = parameters.filter_map(|parameter| Some(size_of::<f32>() * parameter.initial.as_ref()?.len()));
        let initial: usize = initial.sum();
        let parameters = self.attached.parameters.iter().map(|parameter| parameter.values.len());
        let copies = if self.settings.patience.is_some() { 3 } else { 2 };
        let trained = parameters.map(|elements| copies * size_of::<f32>() * elements + moments.bytes(elements));
        let samples = self.rows.iter().chain(self.eval_rows).flatten();
        let rows = samples.map(|sample| size_of_val(sample) + sample.len() * (size_of::<u32>() + size_of::<bool>()));
        MemoryPlan {
            program: PROGRAM,
            model: self.model.bytes() as u64,
            trained: (initial + trained.sum::<usize>()) as u64,
            rows: rows.sum::<usize>() as u64,
            activations: 0,
            gradients: 0,
            logits: 0,
        }
    }

    fn shapes(&self) -> Option<StepShapes> {
        let Attached { trained, parameters } = &self.attached;
        self.engine.shapes(self.model.spec(), trained, parameters)
    }

    /// Of the largest batch of these steps, or of all that is held out; nothing where it is taken on a device.
    fn largest(&self, pass: Pass, steps: Range<u64>) -> Footprint {
        let Some(shapes) = self.shapes() else {
            return Footprint::default();
        };
        let tokens = |row: &super::Row| -> usize { row.iter().map(|sample| sample.len()).sum() };
        let learned = |row: &super::Row| -> usize { row.iter().map(|sample| sample.learned_tokens()).sum() };
        let count = |rows: &mut dyn Iterator<Item = &super::Row>| {
            rows.fold((0, 0), |(all, some), row| (all + tokens(row), some + learned(row)))
        };
        let at_a_time = self.at_a_time.of(pass);
        let footprints: Vec<Footprint> = match pass {
            Pass::Training => {
                let mut order = self.order.clone();
                let rows = steps.map(|step| order.rows_of(step).to_vec());
                let batches = rows.flat_map(|rows| {
                    let batches = rows.chunks(at_a_time);
                    let counted = batches.map(|batch| count(&mut batch.iter().map(|&row| &self.rows[row])));
                    counted.collect::<Vec<_>>()
                });
                batches.map(|(all, some)| shapes.footprint(all, some)).collect()
            }
            Pass::Evaluation => {
                let batches = self.eval_rows.chunks(at_a_time);
                let batches = batches.map(|batch| count(&mut batch.iter()));
                batches.map(|(all, some)| shapes.evaluation(all, some)).collect()
            }
        };
        footprints.into_iter().max_by_key(Footprint::bytes).unwrap_or_default()
    }

    fn advice(&self) -> String {
        let shorter = "a shorter max_length, or optim adamw_8bit";
        match self.engine.checkpointing() {
            true => format!("take {shorter}"),
            false => format!("take gradient_checkpointing, {shorter}"),
        }
    }
}

/// Rows that are computed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtATime {
    pub training: usize,
    pub evaluation: usize,
}

impl AtATime {
    fn of(&self, pass: Pass) -> usize {
        match pass {
            Pass::Training => self.training,
            Pass::Evaluation => self.evaluation,
        }
    }

    fn of_mut(&mut self, pass: Pass) -> &mut usize {
        match pass {
            Pass::Training => &mut self.training,
            Pass::Evaluation => &mut self.evaluation,
        }
    }
}
