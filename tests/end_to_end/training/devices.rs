//! `--device`: candle's kernels train what our own do, by every method; float16 there; devices that the binary was built without.

use std::collections::BTreeMap;

use super::{Workplace, fail, succeed};
use crate::tiny::Expected;

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

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Checks that the tensors of two files are the same but for rounding.
fn agree(own: &BTreeMap<String, Vec<f32>>, candle: &BTreeMap<String, Vec<f32>>) {
    assert!(own.keys().eq(candle.keys()));
    for (name, own) in own {
        let off = own.iter().zip(&candle[name]).map(|(own, candle)| own - candle);
        let error = norm(off) / norm(own.iter().copied());
        assert!(error < 1e-3, "{name} is off by {error:.2e}");
    }
}

#[test]
fn an_adapter_trained_on_candle_is_that_of_our_own_kernels() {
    let work = Workplace::new();
    for (output, device) in [("own", "cpu"), ("candle", "candle-cpu")] {
        let mut command = work.finetune(output, &FLAGS);
        succeed(command.args(["--device", device, "--precision", "f32"]));
    }
    let [own, candle] =
        ["own", "candle"].map(|output| Expected::read(&work.path(output).join("adapter_model.safetensors")).floats());
    agree(&own, &candle);
    assert!(own.keys().any(|name| name.contains("magnitude")), "DoRA was trained");
}

#[test]
fn every_other_method_gives_on_candle_what_it_gives_on_our_own_kernels() {
    let work = Workplace::new();
    let steps = [
        "--max-steps",
        "6",
        "--learning-rate",
        "1e-3",
        "--report-samples",
        "0",
        "--eval-share=0",
    ];
    for (flags, written) in [
        (["--method", "full", "--save-dtype", "f32"], "model/model.safetensors"),
        (
            ["--method", "houlsby", "--reduction-factor", "4"],
            "adapter.safetensors",
        ),
        (
            ["--init-lora-weights", "pissa", "--lora-r", "4"],
            "adapter_model.safetensors",
        ),
    ] {
        let read = |output: &str, device| {
            let mut command = work.finetune(output, &steps);
            succeed(
                command
                    .args(flags)
                    .args(["--overwrite", "--precision", "f32", "--device", device]),
            );
            Expected::read(&work.path(output).join(written))
        };
        agree(&read("own", "cpu").floats(), &read("candle", "candle-cpu").floats());
    }
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
