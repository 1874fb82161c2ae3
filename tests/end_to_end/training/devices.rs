//! `--device`: candle's kernels train the adapter that our own do; float16 there; devices that the binary was built without.

use std::path::Path;

use super::{Workplace, fail, succeed};
use crate::adapter_files::AdapterFiles;

/// Dropout and magnitudes, rows of several lengths in a step.
const FLAGS: [&str; 14] = [
    "--max-steps",
    "6",
    "--lora-r",
    "4",
    "--use-dora",
    "--lora-dropout",
    "0.1",
    "--learning-rate",
    "1e-3",
    "--logging-steps",
    "1",
    "--report-samples",
    "0",
    "--eval-share=0",
];

/// Every tensor of an adapter.
fn tensors(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let mut files = AdapterFiles::read(folder);
    let floats = |bytes: &[u8]| {
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&word| f32::from_le_bytes(word))
            .collect()
    };
    let names = files
        .tensors(".weight")
        .into_iter()
        .chain(files.tensors("_magnitude_vector"));
    let names: Vec<String> = names.collect();
    names
        .into_iter()
        .map(|name| (name.clone(), floats(files.bytes_mut(&name))))
        .collect()
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn an_adapter_trained_on_candle_is_that_of_our_own_kernels() {
    let work = Workplace::new();
    for (output, device) in [("own", "cpu"), ("candle", "candle-cpu")] {
        let mut command = work.finetune(output, &FLAGS);
        succeed(command.args(["--device", device, "--precision", "f32"]));
    }
    let (own, candle) = (tensors(&work.path("own")), tensors(&work.path("candle")));
    assert_eq!(own.len(), candle.len());
    for ((name, own), (_, candle)) in own.iter().zip(&candle) {
        let error = norm(own.iter().zip(candle).map(|(own, candle)| own - candle)) / norm(own.iter().copied());
        assert!(error < 1e-3, "{name} is off by {error:.2e}");
    }
    assert!(
        own.iter().any(|(name, _)| name.contains("magnitude")),
        "DoRA was trained"
    );
}

#[test]
fn a_run_in_float16_goes_on_to_the_same_bytes_and_not_in_float32() {
    let work = Workplace::new();
    let halves = ["--device", "candle-cpu", "--precision", "fp16", "--save-steps", "3"];
    succeed(work.finetune("whole", &FLAGS).args(halves));
    let from = work.path("whole/checkpoint-3");
    let from = ["--resume-from-checkpoint", from.to_str().unwrap()];
    succeed(work.finetune("resumed", &FLAGS).args(halves).args(from));
    let adapter = |output: &str| std::fs::read(work.path(output).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("whole") == adapter("resumed"), "other bytes");
    for (setting, flags) in [
        ("precision", ["--device", "candle-cpu", "--precision", "f32"]),
        ("device", ["--device", "cpu", "--precision", "f32"]),
    ] {
        let (_, error) = fail(work.finetune("other", &FLAGS).args(from).args(flags));
        assert!(
            error.contains(setting) && error.contains("the one to go on from had"),
            "{error}"
        );
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_the_binary_was_built_without_or_that_is_none_is_refused() {
    let work = Workplace::new();
    let refused = |device: &str| fail(work.finetune("out", &FLAGS).args(["--device", device]));
    let (code, error) = refused("cuda:1");
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("--device cuda:1") && error.contains("--features cuda"),
        "{error}"
    );
    let (code, error) = refused("tpu");
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("tpu"), "{error}");
    assert!(!work.path("out").exists());
}
