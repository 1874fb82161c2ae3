//! Blends against peft's own numbers (tests/fixtures/make/ties.py) and against what must hold for any.

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::Blend;
use super::blend::{Delta, Dropping};

fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap() as f32).collect()
}

fn deltas(values: &[Vec<f32>], weights: &[f32]) -> Vec<Delta> {
    let pairs = values.iter().zip(weights).enumerate();
    let delta = |(stream, (values, &weight)): (usize, (&Vec<f32>, &f32))| Delta {
        values: values.clone(),
        weight,
        stream: stream as u64,
    };
    pairs.map(delta).collect()
}

#[test]
fn ties_gives_peft_s_values() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/blend.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let values: Vec<Vec<f32>> = golden["deltas"].as_array().unwrap().iter().map(floats).collect();
    let weights = floats(&golden["weights"]);
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let density = case["density"].as_f64().unwrap();
        let got = Blend::Ties { density }.combine(deltas(&values, &weights));
        let expected = floats(&case["ties"]);
        assert!(expected.iter().filter(|value| **value != 0.0).count() > 10);
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(
                (got - expected).abs() < 1e-6,
                "density {density}, {at}: {got}, peft has {expected}"
            );
        }
    }
}

/// Several changes of one length, and their weights.
fn some_deltas() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<f32>)> {
    (1usize..4, 1usize..40).prop_flat_map(|(adapters, length)| {
        let value = prop_oneof![3 => -2f32..2.0, 1 => Just(0f32)];
        let values = prop::collection::vec(prop::collection::vec(value, length), adapters);
        (values, prop::collection::vec(-2f32..2.0, adapters))
    })
}

proptest! {
    #[test]
    fn whatever_is_blended_stays_between_what_it_is_made_of((values, weights) in some_deltas(), density in 0.01f64..1.0, seed: u64) {
        let got = Blend::Ties { density }.combine(deltas(&values, &weights));
        for (place, got) in got.iter().enumerate() {
            let weighted: Vec<f32> = values.iter().zip(&weights).map(|(values, weight)| values[place] * weight).collect();
            let (least, most) = weighted.iter().fold((0f32, 0f32), |(least, most), value| (least.min(*value), most.max(*value)));
            prop_assert!(least - 1e-6 <= *got && *got <= most + 1e-6, "{got} is not in {least}..{most}");
        }
        // The choice of one adapter is its own: the sum is that of each alone.
        let dropping = Dropping { density, seed };
        let together = Blend::DareLinear(dropping).combine(deltas(&values, &weights));
        let alone: Vec<Vec<f32>> = deltas(&values, &weights).into_iter().map(|delta| Blend::DareLinear(dropping).combine(vec![delta])).collect();
        for (place, got) in together.iter().enumerate() {
            let sum: f32 = alone.iter().map(|values| values[place]).sum();
            prop_assert!((got - sum).abs() <= 1e-4 * (1.0 + sum.abs() + got.abs()) / density as f32);
        }
    }

    #[test]
    fn one_adapter_that_keeps_everything_is_itself_by_every_method((values, weights) in some_deltas(), seed: u64) {
        let one = || deltas(&values[..1], &weights[..1]);
        let keep = Dropping { density: 1.0, seed };
        let sum = Blend::Linear.combine(one());
        for blend in [Blend::Ties { density: 1.0 }, Blend::DareLinear(keep), Blend::DareTies(keep)] {
            let got = blend.combine(one());
            prop_assert!(got.iter().zip(&sum).all(|(got, sum)| got == sum), "{blend:?}");
        }
    }
}
