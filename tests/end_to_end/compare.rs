//! `rootstock compare`: a model is at no distance from itself, an adapter as far as its logits say, and bounds decide the exit code.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::server::{ROOTSTOCK, fixture, model};
use crate::tiny::write_model;

fn compare(models: &[&str], flags: &[&str]) -> Output {
    let mut command = Command::new(ROOTSTOCK);
    command.arg("compare").args(models).args(flags);
    command.arg("--text").arg(fixture("eval/whale.txt"));
    command.output().unwrap()
}

/// The JSON of a comparison that succeeds.
fn report(models: &[&str], flags: &[&str]) -> Value {
    let output = compare(models, &[flags, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn with(model: &Path, adapter: &str) -> String {
    format!("{}+{}", model.display(), fixture(adapter).display())
}

#[test]
fn a_model_is_at_no_distance_from_itself_and_perplexities_are_those_of_eval() {
    let (base, grafted) = (model(), with(&model(), "adapters/r8-all"));
    let base = base.to_str().unwrap();
    let cut = ["--tokens", "64", "--length", "64"];
    let report = report(&[base, base, &grafted], &[&cut[..], &["--no-speed"]].concat());
    let [source, itself, grafted] = [0, 1, 2].map(|row| &report["models"][row]);
    assert_eq!(report["tokens"], 63);
    assert_eq!(source["kl"], Value::Null);
    assert_eq!(
        (&itself["kl"]["mean"], &itself["kl"]["max"]),
        (&json!(0.0), &json!(0.0))
    );
    assert_eq!(
        (&itself["top_1_agreement"], &itself["perplexity"]),
        (&json!(1.0), &source["perplexity"])
    );
    assert!(grafted["kl"]["mean"].as_f64().unwrap() > 0.001, "{grafted}");
    assert!(grafted["kl"]["p99"].as_f64() <= grafted["kl"]["max"].as_f64());
    assert!(grafted["top_1_agreement"].as_f64().unwrap() < 1.0, "{grafted}");
    assert!(grafted["bytes"].as_u64() > source["bytes"].as_u64());
    let bits = source["bits_per_weight"].as_f64().unwrap();
    assert!((5.0..6.5).contains(&bits), "{bits}");

    let mut eval = Command::new(ROOTSTOCK);
    eval.args([
        "eval",
        "--json",
        "--activations",
        "f32",
        "--max-length",
        "64",
        "--model",
        base,
    ]);
    eval.arg("--adapter").arg(fixture("adapters/r8-all"));
    let eval = eval.arg("--data-name").arg(fixture("eval/whale.txt")).output().unwrap();
    let eval: Value = serde_json::from_slice(&eval.stdout).unwrap();
    for (row, compared) in [source, grafted].into_iter().enumerate() {
        let expected = eval["models"][row]["metrics"]["perplexity"].as_f64().unwrap();
        let got = compared["perplexity"]["value"].as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < 1e-5, "{got} for {expected}");
    }
}

#[test]
fn numbers_are_the_same_on_one_thread_and_two_and_speeds_stand_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    write_model("qwen3", folder.path());
    let (base, grafted) = (
        folder.path().to_str().unwrap(),
        with(folder.path(), "tiny/qwen3/adapter"),
    );
    let models = |threads| {
        let flags = ["--threads", threads, "--length", "24", "--tokens", "60"];
        let mut report = report(&[base, &grafted], &flags);
        for row in report["models"].as_array_mut().unwrap() {
            let speed = row["tokens_per_second"].take();
            assert!(
                speed["prefill"].as_f64() > Some(0.0) && speed["decode"].as_f64() > Some(0.0),
                "{speed}"
            );
        }
        report["models"].take()
    };
    let models = [models("1"), models("2")];
    assert_eq!(models[0], models[1]);
    assert_eq!(models[0][1]["model"], models[0][0]["name"]);
}

#[test]
fn a_bound_decides_the_exit_code_and_the_page_is_written_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    write_model("llama3-rope", &folder.path().join("model"));
    let (base, page) = (folder.path().join("model"), folder.path().join("compare.html"));
    let grafted = with(&base, "tiny/llama3-rope/adapter");
    let outcome = |most: &str| {
        let flags = [
            "--no-speed",
            "--length",
            "24",
            "--tokens",
            "60",
            "--max-kl",
            most,
            "--html",
        ];
        compare(
            &[base.to_str().unwrap(), &grafted],
            &[&flags[..], &[page.to_str().unwrap()]].concat(),
        )
    };
    let (code, error) = refusal(&outcome("1e-9"));
    assert!(
        code == Some(1) && error.contains("the KL of model + llama3-rope is "),
        "{error}"
    );
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<svg").count(), 2);
    assert!(html.contains("model + llama3-rope</td>"), "{html}");
    let within = outcome("1000");
    assert!(within.status.success());
    let table = String::from_utf8(within.stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[0].starts_with("model ") && lines[2].starts_with("model + llama3-rope "),
        "{table}"
    );
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    write_model("qwen2", folder.path());
    let (tiny, real) = (folder.path().to_str().unwrap().to_owned(), model());
    let real = real.to_str().unwrap();
    let short = ["--no-speed", "--length", "16", "--tokens", "16"];
    let no_adapter = format!("{tiny}+nobody");
    for (models, flags, code, expected) in [
        (&[tiny.as_str()][..], &short[..], 2, "expected two models at least"),
        (&[&tiny, "nowhere"], &short, 2, "\"nowhere\" is neither"),
        (
            &[&tiny, &no_adapter],
            &short,
            2,
            "there is no folder or GGUF file nobody",
        ),
        (&[&tiny, &tiny], &["--length", "1"], 2, "--length: expected 2"),
        (&[&tiny, real], &short, 1, "expected a vocabulary of 256 tokens"),
        (
            &[&tiny, &with(Path::new(&tiny), "tiny/gpt2/adapter")],
            &short,
            1,
            "(adapter_",
        ),
    ] {
        let (got, error) = refusal(&compare(models, flags));
        assert!(
            got == Some(code) && error.contains(expected),
            "{models:?}: {got:?} {error}"
        );
    }
    let mut without_text = Command::new(ROOTSTOCK);
    let output = without_text.args(["compare", &tiny, &tiny]).output().unwrap();
    assert!(refusal(&output).1.contains("--text is missing"));
}
