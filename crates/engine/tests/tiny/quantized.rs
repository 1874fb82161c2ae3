//! What rounding weights and activations costs on the tiny checkpoints: stated, and held.

use rootstock_engine::native::{ActivationPrecision, WeightPrecision};

use crate::model::{ARCHITECTURES, EXACT, Expected, Model, Setup, fixture};

/// Most root-mean-square distance from the reference's logits, which themselves spread by 0.6. Activations are rounded where
/// they meet weights that are: beside stored f32 weights only keys and values are, to f16.
const BOUNDS: [(ActivationPrecision, WeightPrecision, f32); 8] = [
    (ActivationPrecision::Int8, WeightPrecision::Stored, 0.001),
    (ActivationPrecision::F32, WeightPrecision::Eight, 0.025),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Eight, 0.03),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Four, 0.22),
    (ActivationPrecision::Int8, WeightPrecision::Eight, 0.03),
    (ActivationPrecision::F32, WeightPrecision::Four, 0.22),
    (ActivationPrecision::Int8, WeightPrecision::Four, 0.22),
    (ActivationPrecision::Int8, WeightPrecision::Nf4, 0.25),
];

fn spread(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let squares = got.iter().zip(expected).map(|(got, expected)| (got - expected).powi(2));
    (squares.sum::<f32>() / got.len() as f32).sqrt()
}

#[test]
fn rounding_costs_no_more_than_stated() {
    let mut misses = Vec::new();
    for (activations, weights, bound) in BOUNDS {
        for arch in ARCHITECTURES {
            let expected = Expected::of(arch);
            let setup = Setup {
                threads: 1,
                activations,
                weights,
                ..EXACT
            };
            let mut model = Model::open(arch, setup);
            let adapter = model.adapter(&fixture("tiny").join(arch).join("adapter"), 1.0);
            let base = spread(&model.logits(&expected.ids(), &[]), &expected.floats("logits"));
            let adapted = spread(
                &model.logits(&expected.ids(), &[adapter]),
                &expected.floats("adapter_logits"),
            );
            let line = format!("{arch} {activations:?} {weights:?}: {base:.4}, with its adapter {adapted:.4}");
            println!("{line}");
            // Nothing rounded would mean that the setting has no effect.
            if base.max(adapted) > bound || base.min(adapted) < bound / 50.0 {
                misses.push(line);
            }
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

/// With an output projection of its own and with the embedding for one, which stays as it was.
#[test]
fn a_four_bit_output_costs_its_own_rounding_alone() {
    for arch in ARCHITECTURES {
        let expected = Expected::of(arch);
        let setup = Setup {
            four_bit_output: true,
            ..EXACT
        };
        let logits = Model::open(arch, setup).logits(&expected.ids(), &[]);
        let cost = spread(&logits, &expected.floats("logits"));
        println!("{arch}: {cost:.4}");
        assert!((0.005..0.1).contains(&cost), "{arch}: {cost}");
    }
}

/// Rows are shared out in pieces that do not divide them.
#[test]
fn rounding_while_loading_is_the_same_on_any_number_of_threads() {
    let logits = |threads, weights| {
        let activations = ActivationPrecision::F32;
        let setup = Setup {
            threads,
            activations,
            weights,
            ..EXACT
        };
        Model::open("gpt2", setup).logits(&Expected::of("gpt2").ids(), &[])
    };
    for weights in [WeightPrecision::Eight, WeightPrecision::Four, WeightPrecision::Nf4] {
        let one = logits(1, weights);
        for threads in [2, 3, 7] {
            assert!(logits(threads, weights) == one, "{weights:?} on {threads} threads");
        }
    }
}
