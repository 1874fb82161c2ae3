//! Against torch + peft.

use std::path::Path;

use rootstock_train::run::Row;

use crate::cases::{
    BOUND, Case, Make, Tensors, batch, compare, expected, fixture, learned, own, samples, tiny, train_on, twenty_steps,
    values,
};

/// Checks losses and gradients of a case.
pub fn has_the_gradients_of(what: &str, mut case: Case, file: &Path, make: Make) {
    let samples = samples();
    let gradients = expected(file, "gradient.");
    let loss = f64::from(expected(file, "loss")[""][0]);
    for checkpointing in [false, true] {
        let mut engine = make(&case.model, checkpointing);
        let (got, found) = case.gradients(engine.as_mut(), &batch(&samples), learned(&samples));
        let what = format!("{what}, checkpointing {checkpointing}");
        assert!((got / loss - 1.0).abs() < 1e-5, "{what}: loss {got}, expected {loss}");
        compare(&what, &found, &gradients, BOUND);
    }
}

/// Checks what 20 steps of AdamW make of the tensors against what has become of them in torch.
pub fn has_the_tensors_of(name: &str, make: Make) {
    let case = Case::of(name);
    let (before, file) = (values(&case.attached), fixture(name).join("expected.safetensors"));
    let after = expected(&file, "trained.");
    let rows: Vec<Row> = samples().into_iter().map(|sample| vec![sample]).collect();
    let (attached, losses) = train_on(make, case, &rows, twenty_steps(&rows));
    let got = values(&attached);
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
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.8 * first, "{name}: the loss went from {first} to {last}");
}

macro_rules! cases {
    ($($test:ident, $trained:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            let file = fixture($name).join("expected.safetensors");
            has_the_gradients_of($name, Case::of($name), &file, own);
        }

        #[test]
        fn $trained() {
            has_the_tensors_of($name, own);
        }
    )*};
}

cases! {
    lora_has_pefts_gradients, lora_trains_as_peft_does: "lora";
    ranks_and_factors_by_module_have_pefts_gradients, ranks_and_factors_by_module_train_as_peft_does: "rslora-patterns";
    dora_has_pefts_gradients, dora_trains_as_peft_does: "dora";
    whole_modules_have_pefts_gradients, whole_modules_train_as_peft_does: "saved-modules";
    pairs_on_four_bit_weights_have_pefts_gradients, pairs_on_four_bit_weights_train_as_peft_does: "qlora";
    pairs_on_nf4_weights_have_pefts_gradients, pairs_on_nf4_weights_train_as_peft_does: "qlora-nf4";
}

fn family(arch: &str) {
    let case = Case::load(&tiny(arch), &tiny(arch).join("adapter"));
    has_the_gradients_of(arch, case, &fixture(&format!("{arch}.safetensors")), own);
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

#[test]
fn biases_of_frozen_maps_have_torchs_gradients() {
    family("llama-bias");
}

#[test]
fn layers_without_positions_have_torchs_gradients() {
    family("smollm3");
}
