//! Something that computes as another does but for faults, and an observer that keeps what it is told.

use std::ops::ControlFlow;
use std::path::PathBuf;

use rootstock_decoder::{Backend, Batch, DecoderError, Learn, Parameters, StepShapes, Subject, Trained};
use rootstock_model::ArchSpec;
use rootstock_train::TrainError;
use rootstock_train::records::Warning;
use rootstock_train::run::{Observer, StepReport, Trainer, checkpoint};

use crate::cases::{Tensors, values};

/// What goes wrong in a step.
pub enum Fault {
    /// A gradient leaves the range of float16.
    Overflow,
    /// The device has too little memory.
    OutOfMemory,
}

/// What goes wrong, by the number of steps before and the tokens of this one.
pub type Faults = fn(u64, usize) -> Option<Fault>;

/// Computes as another does, with faults.
pub struct Faulty {
    pub inner: Box<dyn Backend>,
    pub faults: Faults,
    pub step: u64,
}

impl Backend for Faulty {
    fn step(&mut self, subject: Subject<'_>, batch: &Batch, learn: Option<Learn>) -> Result<Vec<f32>, DecoderError> {
        let fault = (self.faults)(self.step, batch.tokens().len());
        if let Some(Fault::OutOfMemory) = fault {
            return Err(DecoderError::OutOfMemory("CUDA_ERROR_OUT_OF_MEMORY".to_owned()));
        }
        self.step += 1;
        let Subject {
            model,
            trained,
            parameters,
        } = subject;
        let subject = Subject {
            model,
            trained,
            parameters: &mut *parameters,
        };
        let losses = self.inner.step(subject, batch, learn)?;
        if let Some(Fault::Overflow) = fault {
            let last = parameters.iter_mut().last().expect("something is trained");
            last.gradient[0] = f32::INFINITY;
        }
        Ok(losses)
    }

    fn checkpointing(&self) -> bool {
        self.inner.checkpointing()
    }

    fn shapes(&self, spec: &ArchSpec, trained: &Trained, parameters: &Parameters) -> Option<StepShapes> {
        self.inner.shapes(spec, trained, parameters)
    }

    fn scales_losses(&self) -> bool {
        self.inner.scales_losses()
    }
}

/// Keeps what is told, and the tensors after every step.
#[derive(Default)]
pub struct Told {
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    pub evaluations: Vec<f64>,
    pub tensors: Vec<Tensors>,
    pub warnings: Vec<Warning>,
    /// Where checkpoints go.
    pub output: Option<PathBuf>,
}

impl Observer for Told {
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError> {
        self.losses.push(report.loss);
        self.norms.push(report.grad_norm);
        self.tensors.push(values(trainer.attached()));
        Ok(ControlFlow::Continue(()))
    }

    fn evaluation(&mut self, _: &Trainer<'_>, loss: f64) -> Result<ControlFlow<()>, TrainError> {
        self.evaluations.push(loss);
        Ok(ControlFlow::Continue(()))
    }

    fn checkpoint(&mut self, trainer: &Trainer<'_>) -> Result<(), TrainError> {
        let output = self.output.as_deref().expect("a folder");
        checkpoint::save(trainer, output, |_| Ok(())).map(|_| ())
    }

    fn warning(&mut self, warning: &Warning) {
        self.warnings.push(warning.clone());
    }
}
