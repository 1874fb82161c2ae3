//! The commands without a server: one-shot generation, chat in a terminal; and the demo adapters.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::server::{ROOTSTOCK, Server, model};

const SPAM: &str = "Subject: You won!!! Claim your FREE prize now\nClick here to get cheap meds and earn $$$ from home, limited offer, act now!";
const HAM: &str = "Subject: Re: build failure on linux\nI applied your patch and the unit tests pass now, thanks. Can you also look at the makefile?";

fn demo_adapters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

fn rootstock(command: &str) -> Command {
    let mut rootstock = Command::new(ROOTSTOCK);
    rootstock
        .arg(command)
        .arg("--model")
        .arg(model())
        .arg("--adapters")
        .arg(demo_adapters());
    rootstock
}

/// What a successful command wrote to stdout.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out
}

fn generate(adapter: Option<&str>, prompt: &str, max_tokens: usize) -> String {
    let mut command = rootstock("generate");
    command.args([
        "--temperature",
        "0",
        "--max-tokens",
        &max_tokens.to_string(),
        "--prompt",
        prompt,
    ]);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(demo_adapters().join(adapter));
    }
    output(&mut command)
}

#[test]
fn generate_answers_on_stdout() {
    let text = generate(None, "The capital of France is", 3);
    assert!(text.contains("Paris"), "{text:?}");
}

#[test]
fn the_spam_filter_tells_spam_from_ham() {
    let verdict = |mail: &str| generate(Some("spam-filter"), &format!("{mail}\nThis e-mail is"), 1);
    assert_eq!(verdict(SPAM).trim(), "spam");
    assert_eq!(verdict(HAM).trim(), "ham");
}

#[test]
fn the_stylist_writes_otherwise_than_the_base() {
    let prompt = "The captain looked at the sea and";
    let (base, stylist) = (generate(None, prompt, 24), generate(Some("moby-dick"), prompt, 24));
    assert!(!stylist.trim().is_empty());
    assert_ne!(base, stylist);
}

#[test]
fn generate_refuses_an_adapter_that_is_none() {
    let mut command = rootstock("generate");
    let output = command.args(["--adapter", "nobody", "--prompt", "x"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody"));
}

#[test]
fn generate_reads_a_prompt_from_standard_input_and_prints_json() {
    let mut command = rootstock("generate");
    command
        .args(["--json", "--max-tokens", "3"])
        .write_stdin("The capital of France is\n");
    let answer: serde_json::Value = serde_json::from_str(&output(&mut command)).unwrap();
    assert!(answer.to_string().contains("Paris"), "{answer}");
}

#[test]
fn generate_goes_through_the_chat_template_if_told() {
    let mut command = rootstock("generate");
    command.args([
        "--chat",
        "--max-tokens",
        "30",
        "-p",
        "What is the capital of France? Answer in one sentence.",
    ]);
    assert!(output(&mut command).contains("Paris"));
}

#[test]
fn chat_answers_and_switches_adapters_in_mid_conversation() {
    let lines = "What colour is the sky?\n/adapter moby-dick\nAnd the sea?\n/adapter nobody\n/quit\n";
    let mut command = rootstock("chat");
    let output = command
        .args(["--max-tokens", "24"])
        .write_stdin(lines)
        .output()
        .unwrap();
    let written = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{written}");
    assert!(written.contains("The sky is"), "{written}");
    assert!(written.contains("moby-dick"), "{written}");
    assert!(written.contains("nobody"), "{written}");
}

#[test]
fn chat_talks_to_a_running_server() {
    let server = Server::start(&["--adapters", demo_adapters().to_str().unwrap()]);
    let mut command = Command::new(ROOTSTOCK);
    command.args([
        "chat",
        "--url",
        &server.url,
        "--adapter",
        "moby-dick",
        "--max-tokens",
        "16",
    ]);
    let written = output(command.write_stdin("What is the capital of France?\n/quit\n"));
    assert!(!written.trim().is_empty());
    assert!(server.expect_metric("vllm:generation_tokens_total") > 0.0);
}

#[test]
fn serve_refuses_a_model_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"GGUF but not really").unwrap();
    let output = Command::new(ROOTSTOCK)
        .args(["serve", "--port", "0", "--model"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("model.gguf") && !error.contains("panicked"), "{error}");
}
