//! Bottlenecks against torch + AdapterHub's library (tests/fixtures/make/bottleneck_adapters.py), and against themselves.

use std::path::PathBuf;

use crate::cases::{Case, batch, compare, engine, expected, learned, samples, tiny};

/// Norm of a tensor's error relative to its own.
const BOUND: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    tiny("../bottleneck").join(name)
}

fn has_the_library_s_gradients(name: &str, arch: &str) {
    let mut case = Case::load(&tiny(arch), &fixture(name));
    let (samples, file) = (samples(), fixture(name).join("expected.safetensors"));
    let loss = f64::from(expected(&file, "loss")[""][0]);
    for checkpointing in [false, true] {
        let mut engine = engine(checkpointing, 2);
        let (got, found) = case.gradients(&mut engine, &batch(&samples), learned(&samples));
        assert!((got / loss - 1.0).abs() < 1e-5, "{name}: loss {got}, expected {loss}");
        compare(name, &found, &expected(&file, "gradient."), BOUND);
    }
}

#[test]
fn houlsby_has_the_librarys_gradients() {
    has_the_library_s_gradients("houlsby", "llama3-rope");
}

#[test]
fn pfeiffer_has_the_librarys_gradients() {
    has_the_library_s_gradients("pfeiffer", "llama3-rope");
}

#[test]
fn layers_of_their_own_widths_and_a_factor_have_the_librarys_gradients() {
    has_the_library_s_gradients("houlsby-some-layers", "qwen3");
}

#[test]
fn both_blocks_of_gpt2_have_the_librarys_gradients() {
    has_the_library_s_gradients("pfeiffer-gpt2", "gpt2");
}

#[test]
fn threads_and_checkpointing_change_no_bit() {
    let samples = samples();
    for name in ["houlsby", "pfeiffer"] {
        let mut case = Case::load(&tiny("llama3-rope"), &fixture(name));
        let mut with = |checkpointing, threads| {
            let mut engine = engine(checkpointing, threads);
            case.gradients(&mut engine, &batch(&samples), learned(&samples))
        };
        let one = with(false, 1);
        assert!(one == with(false, 3) && one == with(true, 2), "{name}");
    }
}
