//! GGUF files that llama.cpp's converter made of the PEFT adapters, on the Hugging Face checkpoints: other names, the rows of
//! some families permuted, and the same logits.

use crate::model::{Expected, Model, assert_near, fixture};

fn check(file: &str, arch: &str, expected: &[f32]) {
    let mut model = Model::exact(arch);
    let adapter = model.adapter(&fixture("gguf-lora/tiny").join(file), 1.0);
    assert_near(file, &model.logits(&Expected::of(arch).ids(), &[adapter]), expected);
}

macro_rules! architectures {
    ($($test:ident $arch:literal)*) => {
        $(#[test] fn $test() {
            check(concat!($arch, ".gguf"), $arch, &Expected::of($arch).floats("adapter_logits"));
        })*
    };
}

architectures! {
    llama_with_scaled_rope "llama3-rope"
    llama_with_biases "llama-bias"
    mistral "mistral"
    qwen2 "qwen2"
    qwen3 "qwen3"
    gemma3 "gemma3"
    phi3 "phi3"
    smollm3 "smollm3"
    // The converter writes A and B of Conv1D maps in each other's place, transposed; the maps that are not square tell.
    gpt2 "gpt2"
}

/// The embedding's A lies transposed in these files.
#[test]
fn embedding_and_head() {
    let expected = fixture("tiny-adapters/head-embedding-untied/expected.safetensors");
    let expected = Expected::read(&expected).floats("logits");
    check("head-embedding-untied.gguf", "llama3-rope", &expected);
}
