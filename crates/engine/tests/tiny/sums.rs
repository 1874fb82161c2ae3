//! Weighted sums of adapters against a base to whose weights both differences were added.

use crate::model::{Expected, Model, assert_near, distance, fixture};

fn check(name: &str, arch: &str, parts: [(&str, f32); 2]) {
    let expected = Expected::read(&fixture(&format!("tiny-adapters/sum-of-{name}.safetensors"))).floats("logits");
    let ids = Expected::of(arch).ids();
    let mut model = Model::exact(arch);
    let applied = parts.map(|(adapter, scale)| model.adapter(&fixture("tiny-adapters").join(adapter), scale));
    assert_near(name, &model.logits(&ids, &applied), &expected);
    for alone in &applied {
        let alone = model.logits(&ids, std::slice::from_ref(alone));
        assert!(
            distance(&alone, &expected) > 0.1,
            "{name}: one of the two changes nothing"
        );
    }
    let [first, second] = applied;
    assert_near(
        &format!("{name}, other way round"),
        &model.logits(&ids, &[second, first]),
        &expected,
    );
}

#[test]
fn two_low_rank_adapters() {
    check("lora-lora", "mistral", [("sum-first", 0.7), ("sum-second", -0.4)]);
}

#[test]
fn dora_and_saved_modules() {
    check("dora-saved", "llama3-rope", [("dora", 0.7), ("saved-modules", 0.6)]);
}

#[test]
fn two_dora_adapters() {
    check("dora-dora", "llama3-rope", [("dora", 0.5), ("dora-head", 0.8)]);
}

#[test]
fn biases_and_dora() {
    check("bias-dora", "llama-bias", [("bias-all", 0.5), ("dora-bias", 0.25)]);
}
