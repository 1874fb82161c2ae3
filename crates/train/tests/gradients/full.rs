//! Every weight of a model, against torch: a tied embedding, learned positions, normalisations and their biases among them.

use rootstock_model::packing::WeightPrecision;
use rootstock_train::full::attach_all;
use rootstock_train::run::Row;

use crate::cases::{
    BOUND, Case, Make, Tensors, batch, compare, expected, fixture, frozen, learned, own, samples, tiny, train_on,
    twenty_steps,
};

/// All weights of a tiny model.
pub fn case(arch: &str) -> Case {
    let mut model = frozen(&tiny(arch), WeightPrecision::Stored);
    let attached = attach_all(&mut model).unwrap();
    Case { model, attached }
}

/// Checks losses and gradients, which are those of so many tensors.
pub fn has_torchs_gradients(arch: &str, tensors: usize, make: Make) {
    let file = fixture(&format!("full-{arch}.safetensors"));
    let (gradients, loss) = (expected(&file, "gradient."), f64::from(expected(&file, "loss")[""][0]));
    assert_eq!(gradients.len(), tensors, "{arch}");
    let (mut case, samples) = (case(arch), samples());
    for checkpointing in [false, true] {
        let mut engine = make(&case.model, checkpointing);
        let (got, found) = case.gradients(engine.as_mut(), &batch(&samples), learned(&samples));
        let what = format!("{arch}, checkpointing {checkpointing}");
        assert!((got / loss - 1.0).abs() < 1e-5, "{what}: loss {got}, expected {loss}");
        let found: Tensors = found
            .into_iter()
            .filter(|(name, _)| gradients.contains_key(name))
            .collect();
        compare(&what, &found, &gradients, BOUND);
    }
}

/// Matrices decay and what has one dimension does not, as in Hugging Face's trainer; the losses of 20 steps show it.
pub fn has_torchs_losses(arch: &str, make: Make) {
    let expected = &expected(&fixture(&format!("full-{arch}.safetensors")), "losses")[""];
    let rows: Vec<Row> = samples().into_iter().map(|sample| vec![sample]).collect();
    let (_, losses) = train_on(make, case(arch), &rows, twenty_steps(&rows));
    assert_eq!(losses.len(), expected.len());
    for (step, (got, &expected)) in losses.iter().zip(expected).enumerate() {
        assert!(
            (got / f64::from(expected) - 1.0).abs() < 1e-3,
            "{arch}, step {step}: {got}, expected {expected}"
        );
    }
}

#[test]
fn all_weights_of_gemma_have_torchs_gradients() {
    // The embedding, the last normalisation, and of the first layer seven maps and six normalisations.
    has_torchs_gradients("gemma3", 15, own);
}

#[test]
fn all_weights_of_gpt2_have_torchs_gradients() {
    // Two tables, the last normalisation's two vectors, and of the first layer four maps with biases and two normalisations.
    has_torchs_gradients("gpt2", 16, own);
}

#[test]
fn all_weights_train_as_in_torch() {
    has_torchs_losses("gemma3", own);
    has_torchs_losses("gpt2", own);
}

#[test]
fn no_frozen_copy_of_a_trained_weight_stays() {
    for arch in ["gemma3", "gpt2", "mistral"] {
        assert_eq!(case(arch).model.bytes(), 0, "{arch}");
    }
}
