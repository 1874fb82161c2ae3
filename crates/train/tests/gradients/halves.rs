//! Training in float16: losses are scaled, so that gradients do not vanish, and steps that overflow even so are skipped.

use std::ops::ControlFlow;

use rootstock_decoder::{
    Backend, Batch, DecoderError, Learn, Parameters, Precision, StepShapes, Subject, Trained,
};
use rootstock_model::ArchSpec;
use rootstock_train::TrainError;
use rootstock_train::records::Warning;
use rootstock_train::run::{Observer, Row, RunSettings, StepReport, Trainer, checkpoint};

use crate::candle::candle;
use crate::cases::{Case, Tensors, batch, engine, learned, relative_error, samples, values};

/// Gradients of some steps leave the range of float16.
struct Overflowing {
    inner: Box<dyn Backend>,
    steps: std::ops::Range<u64>,
    step: u64,
}

impl Backend for Overflowing {
    fn step(
        &mut self,
        subject: Subject<'_>,
        batch: &Batch,
        learn: Option<Learn>,
    ) -> Result<Vec<f32>, DecoderError> {
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
        if self.steps.contains(&self.step) {
            let last = parameters.iter_mut().last().expect("something is trained");
            last.gradient[0] = f32::INFINITY;
        }
        self.step += 1;
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
struct Told {
    losses: Vec<f64>,
    norms: Vec<f64>,
    tensors: Vec<Tensors>,
    warnings: Vec<Warning>,
    /// Where checkpoints go.
    output: Option<std::path::PathBuf>,
}

impl Observer for Told {
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError> {
        self.losses.push(report.loss);
        self.norms.push(report.grad_norm);
        self.tensors.push(values(trainer.attached()));
        Ok(ControlFlow::Continue(()))
    }

    fn evaluation(&mut self, _: &Trainer<'_>, _: f64) -> Result<ControlFlow<()>, TrainError> {
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

fn settings(steps: u64) -> RunSettings {
    RunSettings {
        max_steps: Some(steps),
        batch_size: 3,
        learning_rate: 1e-3,
        ..RunSettings::default()
    }
}

fn rows() -> Vec<Row> {
    samples().into_iter().map(|sample| vec![sample]).collect()
}

/// A run of so many steps of which some overflow.
fn run(steps: u64, overflowing: std::ops::Range<u64>) -> Told {
    let case = Case::of("lora");
    let mut engine = Overflowing {
        inner: candle(&case.model, false, Precision::F16),
        steps: overflowing,
        step: 0,
    };
    let rows = rows();
    let mut trainer = Trainer::new(&mut engine, &case.model, case.attached, (&rows, &[]), settings(steps)).unwrap();
    let mut told = Told::default();
    trainer.run(&mut told).unwrap();
    told
}

#[test]
fn scaled_losses_give_the_gradients_of_f32_but_for_rounding() {
    let (mut case, samples) = (Case::of("lora"), samples());
    let (batch, learned) = (batch(&samples), learned(&samples));
    let (_, expected) = case.gradients(&mut engine(false, 2), &batch, learned);
    let mut halves = candle(&case.model, false, Precision::F16);
    assert!(halves.scales_losses());
    // A mean over fewer tokens than there are is the loss times a factor.
    let few = learned / 8;
    let factor = learned as f32 / few as f32;
    let (_, scaled) = case.gradients(halves.as_mut(), &batch, few);
    for (name, expected) in &expected {
        let found: Vec<f32> = scaled[name].iter().map(|value| value / factor).collect();
        let error = relative_error(&found, expected);
        assert!((1e-6..0.02).contains(&error), "{name} is off by {error:.2e}");
    }
}

#[test]
fn the_loss_falls_in_float16() {
    let told = run(20, 0..0);
    let (first, last) = (told.losses[0], told.losses[19]);
    assert!(last < 0.8 * first, "the loss went from {first} to {last}");
    assert!(told.warnings.is_empty(), "{:?}", told.warnings);
    // Gradients are those of the loss, not of the loss times its factor.
    let (_, gradients) = Case::of("lora").gradients(&mut engine(false, 2), &batch(&samples()), learned(&samples()));
    let square: f64 = gradients.values().flatten().map(|&value| f64::from(value).powi(2)).sum();
    assert!((told.norms[0] / square.sqrt() - 1.0).abs() < 0.01, "{:?}", told.norms);
}

#[test]
fn a_step_that_overflows_changes_nothing_and_halves_the_factor() {
    let told = run(5, 2..4);
    assert_eq!(told.tensors[1], told.tensors[2]);
    assert_eq!(told.tensors[2], told.tensors[3]);
    assert_ne!(told.tensors[3], told.tensors[4]);
    let halved = |step, factors| Warning::LossScaleHalved { step, factors };
    let expected = [halved(3, [65_536.0, 32_768.0]), halved(4, [32_768.0, 16_384.0])];
    assert_eq!(told.warnings, expected);
}

#[test]
fn a_run_that_goes_on_has_the_factor_that_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |save_steps| RunSettings {
        save_steps,
        ..settings(6)
    };
    let rows = rows();
    let mut whole = None;
    for resumes in [false, true] {
        let case = Case::of("lora");
        let inner = candle(&case.model, false, Precision::F16);
        // The second step overflows, which is before the checkpoint.
        let steps = if resumes { 0..0 } else { 1..2 };
        let mut engine = Overflowing { inner, steps, step: 0 };
        let run = settings(if resumes { 0 } else { 3 });
        let mut trainer = Trainer::new(&mut engine, &case.model, case.attached, (&rows, &[]), run).unwrap();
        if resumes {
            checkpoint::restore(&mut trainer, &checkpoint::folder(folder.path(), 3)).unwrap();
        }
        let output = Some(folder.path().to_owned());
        trainer.run(&mut Told { output, ..Told::default() }).unwrap();
        // A checkpoint holds everything: what is trained, its moments, the factor.
        let end = tempfile::tempdir().unwrap();
        let saved = checkpoint::save(&trainer, end.path(), |_| Ok(())).unwrap();
        let state = std::fs::read(saved.join("trainer_state.safetensors")).unwrap();
        assert!(String::from_utf8_lossy(&state).contains("32768"), "the factor has halved once");
        let first = whole.get_or_insert_with(|| state.clone());
        assert!(*first == state, "resumed: {resumes}");
    }
}
