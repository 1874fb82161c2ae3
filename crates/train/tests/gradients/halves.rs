//! Training in float16: losses are scaled, so that gradients do not vanish, and steps that overflow even so are skipped.

use rootstock_decoder::Precision;
use rootstock_train::records::Warning;
use rootstock_train::run::{Row, RunSettings, Trainer, checkpoint};

use crate::candle::candle;
use crate::cases::{Case, batch, engine, learned, relative_error, samples};
use crate::faulty::{Fault, Faults, Faulty, Told};

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

/// A run of so many steps.
fn run(steps: u64, faults: Faults) -> Told {
    let case = Case::of("lora");
    let mut engine = Faulty {
        inner: candle(&case.model, false, Precision::F16),
        faults,
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
    let told = run(20, |_, _| None);
    let (first, last) = (told.losses[0], told.losses[19]);
    assert!(last < 0.8 * first, "the loss went from {first} to {last}");
    assert!(told.warnings.is_empty(), "{:?}", told.warnings);
    // Gradients are those of the loss, not of the loss times its factor.
    let (_, gradients) = Case::of("lora").gradients(&mut engine(false, 2), &batch(&samples()), learned(&samples()));
    let square: f64 = gradients
        .values()
        .flatten()
        .map(|&value| f64::from(value).powi(2))
        .sum();
    assert!((told.norms[0] / square.sqrt() - 1.0).abs() < 0.01, "{:?}", told.norms);
}

#[test]
fn a_step_that_overflows_changes_nothing_and_halves_the_factor() {
    let told = run(5, |step, _| (2..4).contains(&step).then_some(Fault::Overflow));
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
        let faults: Faults = match resumes {
            true => |_, _| None,
            false => |step, _| (step == 1).then_some(Fault::Overflow),
        };
        let mut engine = Faulty { inner, faults, step: 0 };
        let run = settings(if resumes { 0 } else { 3 });
        let mut trainer = Trainer::new(&mut engine, &case.model, case.attached, (&rows, &[]), run).unwrap();
        if resumes {
            checkpoint::restore(&mut trainer, &checkpoint::folder(folder.path(), 3)).unwrap();
        }
        let output = Some(folder.path().to_owned());
        trainer
            .run(&mut Told {
                output,
                ..Told::default()
            })
            .unwrap();
        // A checkpoint holds everything: what is trained, its moments, the factor.
        let end = tempfile::tempdir().unwrap();
        let saved = checkpoint::save(&trainer, end.path(), |_| Ok(())).unwrap();
        let state = std::fs::read(saved.join("trainer_state.safetensors")).unwrap();
        assert!(
            String::from_utf8_lossy(&state).contains("32768"),
            "the factor has halved once"
        );
        let first = whole.get_or_insert_with(|| state.clone());
        assert!(*first == state, "resumed: {resumes}");
    }
}
