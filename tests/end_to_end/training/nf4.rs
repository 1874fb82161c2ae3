//! QLoRA on NF4: what is trained on it is measured on it.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Workplace, fail, succeed};
use crate::server::ROOTSTOCK;

const NF4: [&str; 4] = ["--method", "qlora", "--quant-type", "nf4"];

/// Held-out loss of the adapter in `out` on the base under `--quantize`, by `rootstock eval`.
fn measured(work: &Workplace, quantize: &str) -> f64 {
    let mut command = Command::new(ROOTSTOCK);
    command.arg("eval").arg("--model").arg(work.path("model"));
    command.arg("--adapter").arg(work.path("out")).arg("--adapters-only");
    command.arg("--data-name").arg(work.path("rows.jsonl"));
    command.args(["--eval-split", "train[16:]", "--metrics", "perplexity", "--json"]);
    command.args(["--activations", "f32", "--quantize", quantize]);
    let report: Value = serde_json::from_slice(&succeed(&mut command).stdout).unwrap();
    let perplexity = &report["models"][0]["metrics"]["perplexity"];
    perplexity.as_f64().unwrap_or_else(|| panic!("{report}")).ln()
}

#[test]
fn an_adapter_trained_on_nf4_is_on_nf4_what_its_run_said_and_worse_elsewhere() {
    let work = Workplace::new();
    let flags = [
        "--train-split",
        "train[:16]",
        "--eval-split",
        "train[16:]",
        "--max-steps",
        "40",
        "--learning-rate",
        "1e-2",
        "--precision",
        "f32",
    ];
    succeed(work.finetune("out", &flags).args(NF4));
    let results = fs::read_to_string(work.path("out/train_results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    let said = results["eval_loss"].as_f64().unwrap();
    let (own, stored) = (measured(&work, "nf4"), measured(&work, "none"));
    assert!((own - said).abs() < 1e-4, "{own} measured, {said} said");
    assert!(
        (stored - said).abs() > 1e-3,
        "{stored} on the weights as they are stored, {said} said"
    );
    let card = fs::read_to_string(work.path("out/README.md")).unwrap();
    assert!(card.contains("--quantize nf4 --adapters"), "{card}");
    assert_eq!(results["quant_type"], "nf4");
}

#[test]
fn a_run_does_not_go_on_beside_weights_that_are_rounded_otherwise() {
    let work = Workplace::new();
    let flags = ["--max-steps", "2", "--save-steps", "1"];
    succeed(work.finetune("out", &flags).args(["--method", "qlora"]));
    let mut command = work.finetune("out", &flags);
    let (code, error) = fail(command.args(NF4).arg("--resume-from-checkpoint"));
    assert_eq!(code, 2, "{error}");
    let reason = "quant_type: this run has \"nf4\", the one to go on from had \"q4\"";
    assert!(error.contains(reason), "{error}");
}
