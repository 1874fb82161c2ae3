//! What must hold between gradients of our own, whatever they are.

use rootstock_kernels::Arithmetic;
use rootstock_train::run::{Row, RunSettings};

use crate::cases::{Case, Tensors, batch, compare, engine, engine_in, gradients, learned, samples, train};

/// Sums are the same but for the order that they are made in.
const BOUND: f64 = 1e-5;

/// Of gradients through two layers of products whose operands have eight bits of precision.
const ROUNDING: f64 = 0.05;

fn sum(parts: &[Tensors]) -> Tensors {
    let mut sum = parts[0].clone();
    for part in &parts[1..] {
        for (name, values) in &mut sum {
            values.iter_mut().zip(&part[name]).for_each(|(to, value)| *to += value);
        }
    }
    sum
}

#[test]
fn a_packed_row_has_the_gradients_of_its_samples_alone() {
    let (mut case, samples) = (Case::of("dora"), samples());
    let count = learned(&samples);
    let mut engine = engine(false, 2);
    let (loss, packed) = case.gradients(&mut engine, &batch(&samples), count);
    let alone = samples
        .iter()
        .map(|sample| case.gradients(&mut engine, &batch([sample]), count));
    let (losses, alone): (Vec<f64>, Vec<Tensors>) = alone.unzip();
    assert!((losses.iter().sum::<f64>() / loss - 1.0).abs() < BOUND);
    compare("packed", &packed, &sum(&alone), BOUND);
}

#[test]
fn two_batches_of_two_have_the_gradients_of_one_of_four() {
    // Rows with different numbers of learned tokens: a mean of the batches' means would be another.
    let rows: Vec<Row> = samples()
        .into_iter()
        .chain(samples().pop())
        .map(|sample| vec![sample])
        .collect();
    let with = |batch_size, accumulation| {
        let settings = RunSettings {
            max_steps: Some(1),
            batch_size,
            accumulation,
            ..RunSettings::default()
        };
        let (attached, losses) = train(Case::of("lora"), &rows, settings);
        (gradients(&attached), losses[0])
    };
    let ((whole, loss), (accumulated, sum)) = (with(4, 1), with(2, 2));
    assert!((sum / loss - 1.0).abs() < BOUND);
    compare("accumulated", &accumulated, &whole, BOUND);
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let samples = samples();
    let cases = ["dora", "saved-modules", "qlora", "qlora-nf4"].map(|name| (name, Arithmetic::F32));
    for (name, arithmetic) in cases.into_iter().chain([("dora", Arithmetic::Bf16)]) {
        let mut case = Case::of(name);
        let mut on = |threads| {
            let mut engine = engine_in(arithmetic, false, threads);
            let (loss, gradients) = case.gradients(&mut engine, &batch(&samples), learned(&samples));
            let bits = |values: &Vec<f32>| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let gradients = gradients.iter().map(|(name, values)| (name.clone(), bits(values)));
            (loss.to_bits(), gradients.collect::<Vec<_>>())
        };
        assert!(on(1) == on(3), "{name}, {arithmetic:?}");
    }
}

#[test]
fn checkpointing_changes_no_bit() {
    let samples = samples();
    let mut case = Case::of("dora");
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
        let mut with = |checkpointing| {
            let mut engine = engine_in(arithmetic, checkpointing, 2);
            case.gradients(&mut engine, &batch(&samples), learned(&samples))
        };
        assert_eq!(with(false), with(true), "{arithmetic:?}");
    }
}

#[test]
fn gradients_in_bfloat16_are_those_of_f32_within_its_rounding() {
    let samples = samples();
    for name in ["lora", "dora", "saved-modules", "qlora"] {
        let mut case = Case::of(name);
        let mut within = |arithmetic| {
            let mut engine = engine_in(arithmetic, false, 2);
            case.gradients(&mut engine, &batch(&samples), learned(&samples))
        };
        let ((exact, expected), (loss, got)) = (within(Arithmetic::F32), within(Arithmetic::Bf16));
        assert!(
            (loss / exact - 1.0).abs() < 1e-3,
            "{name}: a loss of {loss} for {exact}"
        );
        compare(name, &got, &expected, ROUNDING);
    }
}

#[test]
fn a_second_step_in_the_same_memory_gives_the_same_bits() {
    let samples = samples();
    let mut case = Case::of("saved-modules");
    let mut engine = engine(true, 2);
    let mut step = || case.gradients(&mut engine, &batch(&samples), learned(&samples));
    assert_eq!(step(), step());
}
