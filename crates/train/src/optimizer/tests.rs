//! Against torch and bitsandbytes, and what a saved state is worth.

use safetensors::SafeTensors;

use super::*;
use crate::Random;
use crate::optimizer::blockwise::{SIGNED, UNSIGNED};
use crate::optimizer::moments::Moments;

const GOLDEN: &[u8] = include_bytes!("../../tests/fixtures/optimizer.safetensors");

fn golden(name: &str) -> Vec<f32> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn golden_codes(name: &str) -> Vec<u8> {
    SafeTensors::deserialize(GOLDEN)
        .unwrap()
        .tensor(name)
        .unwrap()
        .data()
        .to_vec()
}

/// The formula of the script that made the golden values.
fn values(elements: usize, step: u64) -> Vec<f32> {
    let value = |index: u64| {
        let whole = ((index * 7919 + step * 104_729 + index * index * 31) % 2003) as f64 - 1001.0;
        (whole / 1024.0 * 0.5f64.powi((index % 6) as i32)) as f32
    };
    (0..elements as u64).map(value).collect()
}

fn step_of(step: u64) -> Step {
    Step::new(2e-3 * (1.0 - step as f64 / 64.0))
}

/// |a - b| / |b|.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    gradient_norm([difference.as_slice()]) / gradient_norm([b])
}

#[test]
fn twenty_steps_are_those_of_torch() {
    let settings = AdamWSettings {
        beta2: 0.99,
        eps: 1e-6,
        weight_decay: 0.1,
        ..AdamWSettings::default()
    };
    let parameters = [
        Parameter::new("q_proj.lora_A.weight", &[7, 13]),
        // Its name takes it out of the decay, and its rate is LoRA+'s.
        Parameter {
            rate_ratio: 16.0,
            ..Parameter::new("q_proj.bias", &[40])
        },
    ];
    let mut optimizer = AdamW::new(settings, parameters).unwrap();
    let mut tensors = [values(91, 0), values(40, 0)];
    for step in 1..=20 {
        for (index, tensor) in tensors.iter_mut().enumerate() {
            let gradient = values(tensor.len(), step);
            optimizer.update(index, tensor, &gradient, step_of(step)).unwrap();
        }
    }
    for (tensor, name) in tensors.iter().zip(["f32.first", "f32.second"]) {
        let distance = distance(tensor, &golden(name));
        assert!(distance < 1e-6, "{name}: {distance}");
    }
}

#[test]
fn the_maps_of_eight_bits_are_those_of_bitsandbytes() {
    assert_eq!(SIGNED.values.to_vec(), golden("map.signed"));
    assert_eq!(UNSIGNED.values.to_vec(), golden("map.unsigned"));
}

#[test]
fn twenty_steps_in_eight_bits_are_those_of_bitsandbytes() {
    let settings = AdamWSettings {
        beta2: 0.995,
        weight_decay: 0.05,
        moments: MomentType::Blockwise8,
        ..AdamWSettings::default()
    };
    let mut optimizer = AdamW::new(settings, [Parameter::new("wide", &[50, 100])]).unwrap();
    let mut tensor = values(5000, 0);
    for step in 1..=20 {
        optimizer
            .update(0, &mut tensor, &values(5000, step), step_of(step))
            .unwrap();
    }
    let distance = distance(&tensor, &golden("8bit.values"));
    assert!(distance < 1e-5, "{distance}");
    let Moments::Blockwise8 { first, second } = &optimizer.entries[0].moments else {
        panic!("5000 values are enough for blocks");
    };
    for (codes, name) in [(&first.codes, "8bit.first"), (&second.codes, "8bit.second")] {
        let expected = golden_codes(name);
        let apart: Vec<u8> = codes
            .iter()
            .zip(&expected)
            .map(|(a, b)| a.abs_diff(*b))
            .filter(|&d| d > 0)
            .collect();
        // Their sums are fused, ours are not: a value on the edge between two codes may fall to either side.
        assert!(apart.len() <= 10 && apart.iter().all(|&d| d == 1), "{name}: {apart:?}");
    }
}

#[test]
fn clipping_is_that_of_torch() {
    let mut gradients: Vec<Vec<f32>> = [3, 100, 33]
        .into_iter()
        .zip(0..)
        .map(|(n, step)| values(n, step))
        .collect();
    let mut slices: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
    let norm = clip(&mut slices, 0.75);
    let expected = f64::from(golden("clip.norm")[0]);
    assert!((norm - expected).abs() < 1e-6 * expected, "{norm} {expected}");
    let distance = distance(&gradients.concat(), &golden("clip.gradients"));
    assert!(distance < 1e-6, "{distance}");
}

#[test]
fn gradients_below_the_limit_stay_as_they_are_and_zeros_do_not_divide() {
    let mut gradient = [0.3, -0.4];
    assert!((clip(&mut [&mut gradient], 1.0) - 0.5).abs() < 1e-7);
    assert_eq!(gradient, [0.3, -0.4]);
    assert_eq!(clip(&mut [&mut [0.0, 0.0]], 1.0), 0.0);
    assert!(gradient_norm([[1.0, f32::NAN].as_slice()]).is_nan());
}

#[test]
fn a_scale_in_the_step_is_a_clipped_gradient() {
    let gradient = values(64, 3);
    let scale = clip_scale(gradient_norm([gradient.as_slice()]), 0.1);
    let clipped: Vec<f32> = gradient.iter().map(|value| value * scale).collect();
    let after = |gradient: &[f32], gradient_scale| {
        let mut optimizer = AdamW::new(AdamWSettings::default(), [Parameter::new("w", &[8, 8])]).unwrap();
        let mut tensor = values(64, 0);
        let step = Step {
            learning_rate: 1e-3,
            gradient_scale,
        };
        optimizer.update(0, &mut tensor, gradient, step).unwrap();
        tensor
    };
    assert_eq!(after(&gradient, scale), after(&clipped, 1.0));
}

#[test]
fn biases_norms_and_vectors_do_not_decay_and_only_b_learns_faster() {
    for (name, shape, decays) in [
        ("layers.0.self_attn.q_proj.weight", [4, 4].as_slice(), true),
        ("layers.0.self_attn.q_proj.lora_A.weight", &[4, 4], true),
        ("layers.0.self_attn.q_proj.bias", &[4], false),
        ("layers.0.input_layernorm.weight", &[4], false),
        ("layers.0.some_norm.weight", &[4, 4], false),
        ("layers.0.self_attn.q_proj.lora_magnitude_vector", &[4], false),
    ] {
        assert_eq!(Parameter::new(name, shape).decays, decays, "{name}");
    }
    let ratio = |name: &str| Parameter::new(name, &[2, 2]).with_lora_plus(16.0).rate_ratio;
    assert_eq!(ratio("q_proj.lora_B.weight"), 16.0);
    assert_eq!(ratio("q_proj.lora_A.weight"), 1.0);
    assert_eq!(ratio("embed_tokens.lora_embedding_B"), 16.0);
}

/// A quadratic bowl with noise on its gradient, of 4608 values: each learns its own target.
fn distance_after(moments: MomentType, steps: u64) -> f64 {
    let settings = AdamWSettings {
        moments,
        ..AdamWSettings::default()
    };
    let elements = 4608;
    let mut optimizer = AdamW::new(settings, [Parameter::new("w", &[48, 96])]).unwrap();
    let (target, mut tensor) = (values(elements, 1), vec![0.0; elements]);
    let mut random = Random::new(5, "noise");
    for step in 0..steps {
        let noise = |random: &mut Random| (random.below(2001) as f32 - 1000.0) / 10_000.0;
        let gradient: Vec<f32> = tensor
            .iter()
            .zip(&target)
            .map(|(at, to)| at - to + noise(&mut random))
            .collect();
        let step = Step::new(0.01 * (1.0 - step as f64 / steps as f64));
        optimizer.update(0, &mut tensor, &gradient, step).unwrap();
    }
    distance(&tensor, &target)
}

#[test]
fn eight_bits_come_as_close_as_thirty_two() {
    let (whole, eight) = (
        distance_after(MomentType::F32, 400),
        distance_after(MomentType::Blockwise8, 400),
    );
    assert!(whole < 0.05, "{whole}");
    assert!(eight < whole * 1.2, "{eight} beside {whole}");
}

fn trained(optimizer: &mut AdamW, tensors: &mut [Vec<f32>], steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        for (index, tensor) in tensors.iter_mut().enumerate() {
            let gradient = values(tensor.len(), step);
            optimizer.update(index, tensor, &gradient, step_of(step)).unwrap();
        }
    }
}

fn mixed(moments: MomentType) -> AdamW {
    let settings = AdamWSettings {
        weight_decay: 0.01,
        moments,
        ..AdamWSettings::default()
    };
    AdamW::new(
        settings,
        [Parameter::new("wide", &[70, 70]), Parameter::new("small", &[5, 3])],
    )
    .unwrap()
}

#[test]
fn ten_steps_saved_and_ten_more_are_the_bits_of_twenty() {
    for moments in [MomentType::F32, MomentType::Blockwise8] {
        let begin = || vec![values(4900, 0), values(15, 0)];
        let (mut unbroken, mut expected) = (mixed(moments), begin());
        trained(&mut unbroken, &mut expected, 1..=20);
        let (mut before, mut tensors) = (mixed(moments), begin());
        trained(&mut before, &mut tensors, 1..=10);
        let mut after = mixed(moments);
        after.restore(before.state()).unwrap();
        trained(&mut after, &mut tensors, 11..=20);
        assert_eq!(expected, tensors);
        assert_eq!(unbroken.state(), after.state());
    }
}

#[test]
fn a_state_of_another_run_is_refused_with_its_buffer() {
    let state = |optimizer: &AdamW| -> Vec<(String, Buffer<'static>)> {
        let owned = |buffer: Buffer<'_>| match buffer {
            Buffer::F32(values) => Buffer::F32(values.into_owned().into()),
            Buffer::U8(values) => Buffer::U8(values.into_owned().into()),
            Buffer::U64(values) => Buffer::U64(values.into_owned().into()),
        };
        let state = optimizer.state();
        state.into_iter().map(|(name, buffer)| (name, owned(buffer))).collect()
    };
    let whole = state(&mixed(MomentType::F32));
    let fault = |state: Vec<(String, Buffer<'static>)>| mixed(MomentType::F32).restore(state).unwrap_err().to_string();
    let mut short = whole.clone();
    short.retain(|(name, _)| name != "small.exp_avg_sq");
    assert!(fault(short).contains("small.exp_avg_sq: expected it"));
    let mut more = whole.clone();
    more.push(("other.steps".to_owned(), Buffer::U64(vec![1].into())));
    assert!(fault(more).contains("other.steps"));
    let mut wrong = whole;
    wrong[1].1 = Buffer::F32(vec![0.0; 3].into());
    let error = fault(wrong);
    assert!(
        error.contains("expected 4900 values of f32, got 3 values of f32"),
        "{error}"
    );
    assert!(fault(state(&mixed(MomentType::Blockwise8))).contains("wide.exp_avg"));
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let mut optimizer = mixed(MomentType::F32);
    let mut tensor = [1.0; 15];
    for (index, gradient) in [(2, [0.0; 15].as_slice()), (1, &[0.0; 14]), (0, &[0.0; 15])] {
        assert!(optimizer.update(index, &mut tensor, gradient, Step::new(0.1)).is_err());
    }
    assert_eq!(tensor, [1.0; 15]);
    assert_eq!(optimizer.state(), mixed(MomentType::F32).state());
    let twice = [Parameter::new("w", &[2]), Parameter::new("w", &[2])];
    assert!(
        AdamW::new(AdamWSettings::default(), twice)
            .unwrap_err()
            .to_string()
            .contains('w')
    );
    for settings in [
        AdamWSettings {
            beta1: 1.0,
            ..AdamWSettings::default()
        },
        AdamWSettings {
            eps: f64::NAN,
            ..AdamWSettings::default()
        },
        AdamWSettings {
            weight_decay: -0.1,
            ..AdamWSettings::default()
        },
    ] {
        assert!(AdamW::new(settings, []).is_err(), "{settings:?}");
    }
}

#[test]
fn moments_take_the_bytes_that_they_promise() {
    for moments in [MomentType::F32, MomentType::Blockwise8] {
        let bytes = |buffer: &Buffer<'_>| match buffer {
            Buffer::F32(values) => values.len() * 4,
            Buffer::U8(values) => values.len(),
            Buffer::U64(_) => 0,
        };
        let held: usize = mixed(moments).state().iter().map(|(_, buffer)| bytes(buffer)).sum();
        assert_eq!(held, moments.bytes(4900) + moments.bytes(15), "{moments:?}");
    }
    assert_eq!("adamw_torch".parse::<MomentType>().unwrap(), MomentType::F32);
    assert_eq!("adamw_bnb_8bit".parse::<MomentType>().unwrap(), MomentType::Blockwise8);
    assert!("sgd".parse::<MomentType>().unwrap_err().to_string().contains("\"sgd\""));
}
