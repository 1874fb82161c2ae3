//! A base with an adapter of random A and B on it, the batch that both sides compute, and what torch + peft made of it
//! (fixtures/peft/make.py).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rootstock_decoder::{Backend, Batch, Engine, FrozenModel, Learn, StepSettings, Subject};
use rootstock_kernels::Arithmetic;
use rootstock_model::Checkpoint;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_train::TrainError;
use rootstock_train::adapter::{Attached, attach, read_config, read_tensors};
use rootstock_train::dataset::Sample;
use rootstock_train::optimizer::AdamWSettings;
use rootstock_train::records::Warning;
use rootstock_train::run::{Ending, Observer, Row, RunSettings, StepReport, Trainer};
use safetensors::SafeTensors;

/// Norm of a tensor's error relative to its own.
pub const BOUND: f64 = 1e-4;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// A base and what is trained on it.
pub struct Case {
    pub model: FrozenModel,
    pub attached: Attached,
}

/// A file or folder of fixtures/peft.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/peft")
        .join(path)
}

/// A folder of the tiny checkpoints, one for each architecture.
pub fn tiny(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tiny")
        .join(path)
}

/// The weights of a checkpoint.
pub fn frozen(base: &Path, precision: WeightPrecision) -> FrozenModel {
    let packing = Packing {
        precision,
        four_bit_output: false,
        threads: 1,
    };
    FrozenModel::load(&Checkpoint::open(base).unwrap(), 64, packing).unwrap()
}

impl Case {
    /// The adapter of a folder on a base as it is stored.
    pub fn load(base: &Path, adapter: &Path) -> Self {
        Self::rounded(base, WeightPrecision::Stored, adapter)
    }

    fn rounded(base: &Path, precision: WeightPrecision, adapter: &Path) -> Self {
        let model = frozen(base, precision);
        let (config, _) = read_config(adapter).unwrap();
        let mut attached = attach(&config, 0.0, &model, 1).unwrap();
        read_tensors(adapter, &mut attached.parameters, model.spec()).unwrap();
        Self { model, attached }
    }

    /// A case of the base of its own.
    pub fn of(name: &str) -> Self {
        let (base, precision) = match name {
            "qlora" => ("base.gguf", WeightPrecision::Stored),
            "qlora-nf4" => ("base", WeightPrecision::Nf4),
            _ => ("base", WeightPrecision::Stored),
        };
        Self::rounded(&fixture(base), precision, &fixture(name))
    }

    /// Mean loss of a batch over `learned` tokens and its gradients.
    pub fn gradients(&mut self, engine: &mut dyn Backend, batch: &Batch, learned: usize) -> (f64, Tensors) {
        self.attached.parameters.clear_gradients();
        let learn = Learn {
            weight: 1.0 / learned as f32,
            dropout_key: 0,
        };
        let subject = Subject {
            model: &self.model,
            trained: &self.attached.trained,
            parameters: &mut self.attached.parameters,
        };
        let losses = engine.step(subject, batch, Some(learn)).unwrap();
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        (sum / learned as f64, gradients(&self.attached))
    }
}

/// What is trained, as it is now.
pub fn values(attached: &Attached) -> Tensors {
    let parameters = attached.parameters.iter();
    parameters
        .map(|parameter| (parameter.name.clone(), parameter.values.clone()))
        .collect()
}

/// The gradients of what is trained.
pub fn gradients(attached: &Attached) -> Tensors {
    let parameters = attached.parameters.iter();
    parameters
        .map(|parameter| (parameter.name.clone(), parameter.gradient.clone()))
        .collect()
}

/// An engine that computes in f32.
pub fn engine(checkpointing: bool, threads: usize) -> Engine {
    engine_in(Arithmetic::F32, checkpointing, threads)
}

pub fn engine_in(arithmetic: Arithmetic, checkpointing: bool, threads: usize) -> Engine {
    let settings = StepSettings {
        arithmetic,
        checkpointing,
        threads,
    };
    Engine::new(settings).unwrap()
}

/// What computes, by the model and whether it keeps only what enters each layer.
pub type Make = fn(&FrozenModel, bool) -> Box<dyn Backend>;

/// Our own kernels, in f32.
pub fn own(_: &FrozenModel, checkpointing: bool) -> Box<dyn Backend> {
    Box::new(engine(checkpointing, 2))
}

/// Keeps the losses of steps.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn step(&mut self, _: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError> {
        self.0.push(report.loss);
        Ok(ControlFlow::Continue(()))
    }

    fn evaluation(&mut self, _: &Trainer<'_>, _: f64) -> Result<ControlFlow<()>, TrainError> {
        Ok(ControlFlow::Continue(()))
    }

    fn checkpoint(&mut self, _: &Trainer<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    fn warning(&mut self, warning: &Warning) {
        panic!("{warning}");
    }
}

/// Trains to the end; what came of it, its last gradients included, and the loss of every step.
pub fn train(case: Case, rows: &[Row], settings: RunSettings) -> (Attached, Vec<f64>) {
    train_on(own, case, rows, settings)
}

/// The same on something that computes otherwise.
pub fn train_on(make: Make, case: Case, rows: &[Row], settings: RunSettings) -> (Attached, Vec<f64>) {
    let mut engine = make(&case.model, false);
    let mut trainer = Trainer::new(engine.as_mut(), &case.model, case.attached, (rows, &[]), settings).unwrap();
    let mut losses = Losses::default();
    assert_eq!(trainer.run(&mut losses).unwrap(), Ending::Complete);
    (trainer.into_attached(), losses.0)
}

/// The run of make.py.
pub fn twenty_steps(rows: &[Row]) -> RunSettings {
    RunSettings {
        max_steps: Some(20),
        batch_size: rows.len(),
        learning_rate: 1e-3,
        optimizer: AdamWSettings {
            weight_decay: 0.01,
            ..AdamWSettings::default()
        },
        ..RunSettings::default()
    }
}

/// The sequences of make.py, by the same formula.
pub fn samples() -> Vec<Sample> {
    let sequences = [(23, 11), (9, 2), (17, 5)];
    let samples = sequences.into_iter().enumerate().map(|(row, (length, ignored))| {
        let ids = (0..length).map(|at| ((row * 89 + at * 37 + at * at * 11) % 253 + 3) as u32);
        let learned = (0..length).map(|at| at >= ignored && at % 5 != 4);
        Sample::new(ids.collect(), learned.collect())
    });
    samples.collect()
}

/// Samples side by side.
pub fn batch<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Batch {
    let mut batch = Batch::default();
    for sample in samples {
        batch.push(&sample.ids, &sample.learned);
    }
    batch
}

/// Learned tokens of all samples.
pub fn learned(samples: &[Sample]) -> usize {
    samples.iter().map(Sample::learned_tokens).sum()
}

/// Tensors of a file whose names begin with `prefix`, without it.
pub fn expected(file: &Path, prefix: &str) -> Tensors {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |bytes: &[u8]| {
        let words = bytes.chunks_exact(4);
        words.map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    let named = tensors.iter().filter_map(|(name, view)| {
        let name = name.strip_prefix(prefix)?.to_owned();
        Some((name, floats(view.data())))
    });
    named.collect()
}

/// `|got - expected| / |expected|`
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |value: f64| value * value;
    let pairs = got.iter().zip(expected);
    let difference: f64 = pairs
        .map(|(&got, &expected)| square(f64::from(got) - f64::from(expected)))
        .sum();
    let length: f64 = expected.iter().map(|&value| square(value.into())).sum();
    (difference / length).sqrt()
}

/// Checks every tensor by the norm of its error relative to its own.
///
/// # Panics
/// Other names, or an error of `bound` or more.
pub fn compare(what: &str, got: &Tensors, expected: &Tensors, bound: f64) {
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (name, expected) in expected {
        let error = relative_error(&got[name], expected);
        assert!(error < bound, "{what}: {name} is off by {error:.2e}");
    }
}
