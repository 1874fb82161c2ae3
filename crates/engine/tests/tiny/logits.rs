//! The f32, unquantized path against transformers and peft, on every instruction set.

use std::process::Command;

use rootstock_kernels::{ISA_VARIABLE, Isa};

use crate::model::{ARCHITECTURES, Expected, Model, assert_near, distance, fixture};

fn check(arch: &str) {
    let expected = Expected::of(arch);
    let (ids, base, adapted) = (
        expected.ids(),
        expected.floats("logits"),
        expected.floats("adapter_logits"),
    );
    assert_eq!((ids.len(), base.len()), (48, 48 * 256));
    // The values tell a base from its adapter, or nearness to both would show nothing.
    assert!(distance(&base, &adapted) > 1.0);
    let mut model = Model::exact(arch);
    assert_near(arch, &model.logits(&ids, &[]), &base);
    let adapter = model.adapter(&fixture("tiny").join(arch).join("adapter"), 1.0);
    assert_near(
        &format!("{arch} with its adapter"),
        &model.logits(&ids, &[adapter]),
        &adapted,
    );
}

macro_rules! architectures {
    ($($test:ident $arch:literal)*) => {
        $(#[test] fn $test() { check($arch); })*

        #[test]
        fn every_fixture_is_checked() {
            let mut checked = vec![$($arch),*];
            let mut folders: Vec<String> = std::fs::read_dir(fixture("tiny")).unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            checked.sort_unstable();
            folders.sort_unstable();
            assert_eq!(checked, folders);
            assert_eq!(checked.len(), ARCHITECTURES.len());
        }
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
    gpt2 "gpt2"
}

/// The variable belongs to the process, so each instruction set gets one of its own.
#[test]
fn every_instruction_set_is_as_near() {
    let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    assert!(names.contains(&"scalar"));
    let test = std::env::current_exe().unwrap();
    for name in names {
        let mut command = Command::new(&test);
        let filters = ["logits::", "adapters::", "--skip", "every_instruction_set"];
        let output = command.args(filters).env(ISA_VARIABLE, name).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}:\n{text}");
        assert!(!text.contains(" 0 passed"), "{name}: nothing ran\n{text}");
    }
}
