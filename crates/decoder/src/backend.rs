//! What training asks of a way of computing: steps, and what is known of them before.

use rootstock_model::ArchSpec;

use crate::{Batch, DecoderError, Engine, Learn, Parameters, StepShapes, Subject, Trained};

/// Numbers that maps are multiplied in; sums of losses, trained tensors and their gradients are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// The upper half of an f32.
    Bf16,
    /// IEEE's 16 bits, whose small numbers end at 6e-8 and whose large ones at 65,504.
    F16,
}

/// A way of computing steps.
pub trait Backend {
    /// Losses of the batch's targets, `-log p`, in their order. With `learn`, gradients are added to those of the parameters.
    ///
    /// # Errors
    /// A device that fails or is out of memory; gradients may then hold a part of the sum.
    fn step(&mut self, subject: Subject<'_>, batch: &Batch, learn: Option<Learn>) -> Result<Vec<f32>, DecoderError>;

    /// Only what enters each layer is kept, and the rest computed again on the way back.
    fn checkpointing(&self) -> bool;

    /// The shapes by which the memory of steps is known; `None` where that is up to a device.
    fn shapes(&self, spec: &ArchSpec, trained: &Trained, parameters: &Parameters) -> Option<StepShapes>;

    /// Gradients pass through f16, where those of a mean over many tokens are too small: [`Learn::weight`] is to be scaled.
    fn scales_losses(&self) -> bool;
}

impl Backend for Engine {
    fn step(&mut self, subject: Subject<'_>, batch: &Batch, learn: Option<Learn>) -> Result<Vec<f32>, DecoderError> {
        Ok(Engine::step(self, subject, batch, learn))
    }

    fn checkpointing(&self) -> bool {
        self.settings().checkpointing
    }

    fn shapes(&self, spec: &ArchSpec, trained: &Trained, parameters: &Parameters) -> Option<StepShapes> {
        Some(StepShapes::new(spec, trained, parameters, self.settings()))
    }

    fn scales_losses(&self) -> bool {
        false
    }
}
