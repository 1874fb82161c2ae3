//! Bottlenecks against torch + AdapterHub's library (tests/fixtures/make/bottleneck_adapters.py), and against themselves.

use std::path::PathBuf;

use crate::cases::{Case, Make, batch, engine, learned, own, samples, tiny};
use crate::golden::has_the_gradients_of;

/// A folder of fixtures/bottleneck.
pub fn fixture(name: &str) -> PathBuf {
    tiny("../bottleneck").join(name)
}

/// Checks losses and gradients of a fixture on its base.
pub fn has_the_librarys_gradients(name: &str, arch: &str, make: Make) {
    let case = Case::load(&tiny(arch), &fixture(name));
    has_the_gradients_of(name, case, &fixture(name).join("expected.safetensors"), make);
}

#[test]
fn houlsby_has_the_librarys_gradients() {
    has_the_librarys_gradients("houlsby", "llama3-rope", own);
}

#[test]
fn pfeiffer_has_the_librarys_gradients() {
    has_the_librarys_gradients("pfeiffer", "llama3-rope", own);
}

#[test]
fn layers_of_their_own_widths_and_a_factor_have_the_librarys_gradients() {
    has_the_librarys_gradients("houlsby-some-layers", "qwen3", own);
}

#[test]
fn both_blocks_of_gpt2_have_the_librarys_gradients() {
    has_the_librarys_gradients("pfeiffer-gpt2", "gpt2", own);
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
