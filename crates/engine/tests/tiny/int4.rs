//! Folders in 4 bits (GPTQ, AWQ, compressed-tensors) against transformers on the weights that their codes mean.

use rootstock_engine::native::{ActivationPrecision, WeightPrecision};

use crate::model::{EXACT, Expected, Model, Setup, assert_near, distance, fixture};

fn check(name: &str, arch: &str) {
    let folder = fixture("tiny-int4").join(name);
    let expected = Expected::read(&folder.join("expected.safetensors"));
    let (ids, base) = (expected.ids(), expected.floats("logits"));
    assert!(
        distance(&base, &Expected::of(arch).floats("logits")) > 0.1,
        "four bits change the logits"
    );
    let adapter = fixture("tiny").join(arch).join("adapter");
    let mut model = Model::at(&folder, EXACT);
    assert_near(name, &model.logits(&ids, &[]), &base);
    let applied = [model.adapter(&adapter, 1.0)];
    let adapted = expected.floats("adapter_logits");
    assert_near(
        &format!("{name} with an adapter"),
        &model.logits(&ids, &applied),
        &adapted,
    );
    let rounded = Setup {
        threads: 2,
        activations: ActivationPrecision::Int8,
        weights: WeightPrecision::Stored,
        four_bit_output: false,
    };
    let rounded = Model::at(&folder, rounded).logits(&ids, &[]);
    let squares = rounded
        .iter()
        .zip(&base)
        .map(|(got, expected)| (got - expected).powi(2));
    let spread = (squares.sum::<f32>() / base.len() as f32).sqrt();
    println!("{name} with int8 activations: {spread:.4}");
    assert!((1e-4..0.03).contains(&spread), "{name}: {spread} with int8 activations");
}

#[test]
fn gptq_in_another_order() {
    check("gptq", "llama3-rope");
}

#[test]
fn awq() {
    check("awq", "qwen2");
}

#[test]
fn compressed_tensors() {
    check("compressed-tensors", "smollm3");
}
