//! `rootstock eval`: what it measures is what the adapters are for and what the server says, and bounds decide its exit code.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::server::{BASE, ROOTSTOCK, Server, fixture, model};
use crate::tiny::write_model;

fn demo(adapter: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(adapter)
}

/// On the rows of a file below tests/fixtures/eval.
fn eval(rows: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(ROOTSTOCK);
    command.arg("eval").arg("--model").arg(model());
    command.arg("--data-name").arg(fixture("eval").join(rows)).args(flags);
    command
}

fn with_adapters<'a>(command: &'a mut Command, adapters: &[&str]) -> &'a mut Command {
    for adapter in adapters {
        command.arg("--adapter").arg(demo(adapter));
    }
    command
}

/// The JSON that a successful evaluation prints.
fn report(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn metric(report: &Value, row: usize, name: &str) -> f64 {
    let value = &report["models"][row]["metrics"][name];
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no {name} in row {row} of {report}"))
}

#[test]
fn the_spam_filter_tells_what_its_base_guesses_and_writes_the_label_it_finds_likeliest() {
    let flags = ["--metrics", "accuracy,f1,exact-match", "--max-tokens", "1"];
    let report = report(with_adapters(&mut eval("mails.csv", &flags), &["spam-filter"]));
    assert_eq!(
        (&report["examples"], &report["labels"]),
        (&json!(12), &json!([" ham", " spam"]))
    );
    let (base, filter) = (metric(&report, 0, "accuracy"), metric(&report, 1, "accuracy"));
    assert!(base <= 0.6 && filter >= 0.9, "{report}");
    assert!(metric(&report, 1, "macro-f1") > 2.0 * metric(&report, 0, "macro-f1"));
    assert_eq!(metric(&report, 1, "exact-match"), filter);
}

#[test]
fn values_are_the_same_on_one_thread_and_two_and_alone_or_beside_others() {
    let values = |threads: &str, adapters: &[&str], only: &[&str]| {
        let flags = [
            &[
                "--threads",
                threads,
                "--metrics",
                "perplexity,accuracy,bleu",
                "--max-tokens",
                "2",
            ],
            only,
        ]
        .concat();
        let report = report(with_adapters(&mut eval("mails.csv", &flags), adapters));
        let rows = report["models"].as_array().unwrap();
        let of = |row: &&Value| row["adapter"] == "spam-filter";
        rows.iter().find(of).unwrap()["metrics"].clone()
    };
    let alone = values("1", &["spam-filter"], &["--adapters-only"]);
    assert_eq!(alone, values("2", &["moby-dick", "spam-filter"], &[]));
    assert!(alone["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn perplexity_is_what_the_servers_log_probabilities_say() {
    let report = report(with_adapters(&mut eval("whale.txt", &[]), &["moby-dick"]));
    let (base, stylist) = (metric(&report, 0, "perplexity"), metric(&report, 1, "perplexity"));
    assert!(stylist < 0.9 * base, "{stylist} is not well below {base}");
    let server = Server::start(&["--adapters", demo("").to_str().unwrap()]);
    // What is learned of a text includes the token that ends it.
    let text = std::fs::read_to_string(fixture("eval").join("whale.txt")).unwrap() + "<|im_end|>";
    for (name, expected) in [(BASE, base), ("moby-dick", stylist)] {
        let body = json!({"model": name, "prompt": text, "max_tokens": 0, "echo": true, "logprobs": 0});
        let answer = server.post("/v1/completions", &body).json();
        let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        let logprobs: Vec<f64> = logprobs.iter().filter_map(Value::as_f64).collect();
        assert_eq!(json!(logprobs.len()), report["models"][0]["tokens"]);
        let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
        let perplexity = (-mean).exp();
        assert!(
            (perplexity / expected - 1.0).abs() < 1e-5,
            "{name}: {perplexity} for {expected}"
        );
    }
}

#[test]
fn turns_of_an_assistant_are_scored_and_generated_through_the_chat_template() {
    let flags = ["--metrics", "perplexity,exact-match,bleu,rouge", "--max-tokens", "16"];
    let report = report(&mut eval("capitals.jsonl", &flags));
    assert!(metric(&report, 0, "perplexity") < 100.0, "{report}");
    // "Good morning, everyone." is said as it was asked for; the capitals are named in a sentence.
    assert!((metric(&report, 0, "exact-match") - 1.0 / 3.0).abs() < 1e-9, "{report}");
    assert!(
        metric(&report, 0, "rouge-l") > 0.4 && metric(&report, 0, "bleu") > 1.0,
        "{report}"
    );
}

#[test]
fn models_stand_side_by_side_whatever_their_container_and_precision() {
    let dir = tempfile::tempdir().unwrap();
    // As a run leaves its model, and a folder in Hugging Face's layout.
    write_model("qwen2", &dir.path().join("merged/model"));
    write_model("mistral", &dir.path().join("mistral"));
    let mut command = Command::new(ROOTSTOCK);
    command.args([
        "eval",
        "--quantize",
        "8",
        "--eval-split",
        "train[:1]",
        "--max-length",
        "32",
    ]);
    command.arg("--data-name").arg(fixture("eval/mails.csv"));
    command
        .args(["--metrics", "perplexity", "--model"])
        .arg(dir.path().join("merged"));
    command.arg("--model").arg(dir.path().join("mistral"));
    let report = report(&mut command);
    let rows = report["models"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["merged", "mistral"]);
    assert_ne!(metric(&report, 0, "perplexity"), metric(&report, 1, "perplexity"));
}

#[test]
fn a_bound_decides_the_exit_code_and_the_report_is_written_all_the_same() {
    // An adapter as a training run leaves it, below the run's folder.
    let run = tempfile::tempdir().unwrap();
    let adapter = run.path().join("mails/adapter");
    std::fs::create_dir_all(&adapter).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(demo("spam-filter").join(file), adapter.join(file)).unwrap();
    }
    let out = run.path().join("report.json");
    let outcome = |bound: &str| {
        let mut command = eval(
            "mails.csv",
            &["--metrics", "accuracy", "--fail-below", bound, "--adapter"],
        );
        command
            .arg(run.path().join("mails"))
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap()
    };
    let failed = outcome("accuracy=0.99");
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{error}");
    assert!(
        error.contains(" + mails is ") && error.contains("below 0.99"),
        "{error}"
    );
    let table = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(table.starts_with("model") && table.contains(" + mails"), "{table}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(report["failures"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(outcome("accuracy=0.9").status.code(), Some(0));
}

#[test]
fn columns_of_no_known_shape_are_named_with_their_line_and_a_template_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.csv");
    std::fs::write(&rows, "subject,verdict\nhello there,ham\nfree prizes,spam\n").unwrap();
    let outcome = |flags: &[&str]| eval(rows.to_str().unwrap(), flags).output().unwrap();
    let refused = outcome(&[]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(
        error.contains("rows.csv:2: expected columns of one of") && error.contains("subject, verdict"),
        "{error}"
    );
    let taken = outcome(&[
        "--text-template",
        "{subject} is {verdict}",
        "--eval-split",
        "train[:1]",
        "--json",
    ]);
    let report: Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!(report["examples"], 1);
    assert!(metric(&report, 0, "perplexity") > 1.0);
}
