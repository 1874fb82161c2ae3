//! A device that has too little memory for a batch gets fewer rows at a time.

use rootstock_train::records::Warning;
use rootstock_train::run::{Row, RunSettings, Trainer};

use crate::cases::{Case, compare, own, samples};
use crate::faulty::{Fault, Faults, Faulty, Told};

/// A step and an evaluation over the samples, which have 23, 9 and 17 tokens.
fn run(faults: Faults) -> (Told, Option<String>) {
    let case = Case::of("lora");
    let mut engine = Faulty {
        inner: own(&case.model, false),
        faults,
        step: 0,
    };
    let rows: Vec<Row> = samples().into_iter().map(|sample| vec![sample]).collect();
    let settings = RunSettings {
        max_steps: Some(1),
        batch_size: 3,
        eval_batch_size: 3,
        ..RunSettings::default()
    };
    let mut told = Told::default();
    let mut trainer = Trainer::new(&mut engine, &case.model, case.attached, (&rows, &rows), settings).unwrap();
    let failure = trainer.run(&mut told).err().map(|error| error.to_string());
    (told, failure)
}

#[test]
fn a_batch_that_a_device_has_no_room_for_is_halved_until_it_fits() {
    let (whole, _) = run(|_, _| None);
    let (halved, failure) = run(|_, tokens| (tokens > 30).then_some(Fault::OutOfMemory));
    assert_eq!(failure, None);
    let full = |step, rows| Warning::DeviceFull { step, rows };
    let expected = [full(0, [3, 2]), full(0, [2, 1]), full(1, [3, 2]), full(1, [2, 1])];
    assert_eq!(halved.warnings, expected);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
    assert!(close(halved.losses[0], whole.losses[0]) && close(halved.norms[0], whole.norms[0]));
    assert!(close(halved.evaluations[0], whole.evaluations[0]));
    compare("halved", &halved.tensors[0], &whole.tensors[0], 1e-4);
}

#[test]
fn one_row_that_is_too_much_ends_the_run_with_the_devices_words() {
    let (told, failure) = run(|_, tokens| (tokens > 20).then_some(Fault::OutOfMemory));
    assert_eq!(failure.as_deref(), Some("CUDA_ERROR_OUT_OF_MEMORY"));
    assert_eq!(told.warnings.len(), 2);
}
