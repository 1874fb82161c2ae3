//! Against torch + peft.

use std::ops::ControlFlow;
use std::path::Path;

use rootstock_train::TrainError;
use rootstock_train::optimizer::AdamWSettings;
use rootstock_train::records::Warning;
use rootstock_train::run::{Ending, Observer, Row, RunSettings, StepReport, Trainer};

use crate::cases::{Case, Tensors, batch, compare, engine, expected, fixture, learned, samples, tiny, values};

/// Norm of a tensor's error relative to its own.
const BOUND: f64 = 1e-4;

fn has_the_gradients_of(what: &str, mut case: Case, file: &Path) {
    let samples = samples();
    let gradients = expected(file, "gradient.");
    let loss = f64::from(expected(file, "loss")[""][0]);
    for checkpointing in [false, true] {
        let mut engine = engine(checkpointing, 2);
        let (got, found) = case.gradients(&mut engine, &[batch(&samples)], learned(&samples));
        let what = format!("{what}, checkpointing {checkpointing}");
        assert!((got / loss - 1.0).abs() < 1e-5, "{what}: loss {got}, expected {loss}");
        compare(&what, &found, &gradients, BOUND);
    }
}

/// Keeps losses and norms of gradients.
#[derive(Default)]
struct Curve(Vec<f64>);

impl Observer for Curve {
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

/// What 20 steps of AdamW made of the tensors, and what they had become of them in torch.
fn has_the_tensors_of(name: &str) {
    let Case { model, attached } = Case::of(name);
    let (before, file) = (values(&attached), fixture(name).join("expected.safetensors"));
    let after = expected(&file, "trained.");
    let rows: Vec<Row> = samples().into_iter().map(|sample| vec![sample]).collect();
    let settings = RunSettings {
        max_steps: Some(20),
        batch_size: rows.len(),
        learning_rate: 1e-3,
        optimizer: AdamWSettings {
            weight_decay: 0.01,
            ..AdamWSettings::default()
        },
        ..RunSettings::default()
    };
    let mut engine = engine(false, 2);
    let mut trainer = Trainer::new(&mut engine, &model, attached, (&rows, &[]), settings).unwrap();
    let mut curve = Curve::default();
    assert_eq!(trainer.run(&mut curve).unwrap(), Ending::Complete);
    let got = values(&trainer.into_attached());
    compare(name, &got, &after, BOUND);
    // The tensors are long beside what became of them: the way that they went is compared as well.
    let way = |to: &Tensors| -> Tensors {
        let changes = to.iter().map(|(name, to)| {
            let change = to.iter().zip(&before[name]).map(|(to, from)| to - from);
            (name.clone(), change.collect())
        });
        changes.collect()
    };
    compare(&format!("{name}, changes"), &way(&got), &way(&after), 10.0 * BOUND);
    let (first, last) = (curve.0[0], curve.0[curve.0.len() - 1]);
    assert!(last < 0.8 * first, "{name}: the loss went from {first} to {last}");
}

macro_rules! cases {
    ($($test:ident, $trained:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            let file = fixture($name).join("expected.safetensors");
            has_the_gradients_of($name, Case::of($name), &file);
        }

        #[test]
        fn $trained() {
            has_the_tensors_of($name);
        }
    )*};
}

cases! {
    lora_has_pefts_gradients, lora_trains_as_peft_does: "lora";
    ranks_and_factors_by_module_have_pefts_gradients, ranks_and_factors_by_module_train_as_peft_does: "rslora-patterns";
    dora_has_pefts_gradients, dora_trains_as_peft_does: "dora";
    whole_modules_have_pefts_gradients, whole_modules_train_as_peft_does: "saved-modules";
    pairs_on_four_bit_weights_have_pefts_gradients, pairs_on_four_bit_weights_train_as_peft_does: "qlora";
}

fn family(arch: &str) {
    let case = Case::load(&tiny(arch), &tiny(arch).join("adapter"));
    has_the_gradients_of(arch, case, &fixture(&format!("{arch}.safetensors")));
}

#[test]
fn norms_of_heads_and_a_tied_output_have_torchs_gradients() {
    family("qwen3");
}

#[test]
fn windows_and_norms_after_blocks_have_torchs_gradients() {
    family("gemma3");
}

#[test]
fn fused_projections_have_torchs_gradients() {
    family("phi3");
}

#[test]
fn layer_norms_learned_positions_and_turned_weights_have_torchs_gradients() {
    family("gpt2");
}
