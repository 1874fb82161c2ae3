//! `--method full`: what comes of it is a model like any other.

use std::process::Command;

use serde_json::Value;

use super::{Workplace, succeed};
use crate::server::{ROOTSTOCK, Server};
use crate::tiny::scored;

const FLAGS: [&str; 8] = [
    "--method",
    "full",
    "--max-steps",
    "30",
    "--learning-rate",
    "3e-3",
    "--eval-steps",
    "10",
];

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&succeed(command.arg("--json")).stdout).unwrap()
}

fn eval(work: &Workplace, model: &str) -> Value {
    let mut command = Command::new(ROOTSTOCK);
    command.arg("eval").arg("--data-name").arg(work.path("rows.jsonl"));
    command.args([
        "--metrics",
        "perplexity,exact-match",
        "--max-tokens",
        "8",
        "--threads",
        "2",
    ]);
    json(command.arg("--model").arg(work.path(model)))["models"][0]["metrics"].take()
}

#[test]
fn all_weights_are_trained_and_the_model_is_served_and_measured() {
    let work = Workplace::new();
    let result = json(&mut work.finetune("out", &FLAGS));
    let number = |field: &str| result[field].as_f64().unwrap_or_else(|| panic!("{field} in {result}"));
    assert_eq!(number("trainable_parameters"), number("all_parameters"));
    assert!(number("eval_loss") < 1.0, "{result}");
    assert_eq!(result["warnings"], serde_json::json!([]));
    let files = ["metrics.jsonl", "model", "report.html", "train_results.json"];
    assert_eq!(work.entries("out"), files);
    let files = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(work.entries("out/model"), files);

    // The folder of the run and the model in it are the same to every command that takes a model.
    let perplexity = |model: &str| eval(&work, model)["perplexity"].as_f64().unwrap();
    let (base, run, model) = (perplexity("model"), perplexity("out"), perplexity("out/model"));
    assert!(run < base / 10.0, "from {base} to {run}");
    assert_eq!(run, model);
    let ids: Vec<u32> = "Mail 2 says hamhamham: ham"
        .bytes()
        .map(|byte| u32::from(byte) + 3)
        .collect();
    let server = Server::start_on(&work.path("out"), &["--served-model-name", "tuned"]);
    let label = &scored(&server, "tuned", &ids)[ids.len() - 4..];
    assert!(label.iter().all(|&logprob| logprob > -0.7), "{label:?}");

    let report = std::fs::read_to_string(work.path("out/report.html")).unwrap();
    assert!(report.matches("<pre").count() > 0, "samples of base and model");
    let card = std::fs::read_to_string(work.path("out/model/README.md")).unwrap();
    for part in [
        "library_name: transformers",
        "base_model:finetune:model",
        "| method | full |",
        "rootstock serve --model out",
        "written in bf16",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    assert!(!card.contains("lora"), "{card}");
}

#[test]
fn a_dry_run_counts_gradients_and_moments_of_all_weights_and_no_frozen_one() {
    let work = Workplace::new();
    let flags = [
        "--method",
        "full",
        "--max-steps",
        "4",
        "--save-steps",
        "2",
        "--save-dtype",
        "f32",
    ];
    let plan = json(work.finetune("out", &flags).arg("--dry-run"));
    assert!(!work.path("out").exists());
    let result = json(&mut work.finetune("out", &flags));
    let number = |field: &Value| field.as_u64().unwrap_or_else(|| panic!("{field} in {plan}"));
    // Values, gradients and two moments, in f32; the names of a hundred tensors are not counted.
    let elements = number(&result["trainable_parameters"]);
    assert_eq!(
        (number(&plan["memory"]["model"]), number(&plan["memory"]["trained"])),
        (0, 16 * elements)
    );
    let size = |name: &str| std::fs::metadata(work.path("out").join(name)).unwrap().len();
    let model = size("model/model.safetensors");
    assert!(
        model.abs_diff(number(&plan["output_bytes"])) < model / 20,
        "{model} of {plan}"
    );
    let checkpoint =
        ["model/model.safetensors", "trainer_state.safetensors"].map(|name| size(&format!("checkpoint-4/{name}")));
    let checkpoints = 2 * checkpoint.iter().sum::<u64>();
    assert!(
        checkpoints.abs_diff(number(&plan["checkpoint_bytes"])) < checkpoints / 20,
        "{checkpoints} of {plan}"
    );
}

#[test]
fn a_checkpoint_is_a_model_too() {
    let work = Workplace::new();
    succeed(&mut work.finetune("out", &["--method", "full", "--max-steps", "4", "--save-steps", "2"]));
    assert_eq!(work.entries("out/checkpoint-4"), ["model", "trainer_state.safetensors"]);
    assert_eq!(eval(&work, "out/checkpoint-4"), eval(&work, "out"));
}
