//! `rootstock inspect`: the real model and adapters as the binary describes them, and exit codes that say what serving would.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::server::{ROOTSTOCK, fixture, model};

fn inspect(path: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(ROOTSTOCK);
    command.arg("inspect").arg(path).args(flags).output().unwrap()
}

fn report(path: &Path, flags: &[&str]) -> Value {
    let output = inspect(path, &[flags, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_model_is_described_with_its_architecture_types_and_size() {
    let path = model();
    let report = report(&path, &["--tensors"]);
    for (name, expected) in [
        ("kind", json!("GGUF file")),
        ("architecture", json!("llama")),
        ("layers", json!(30)),
        ("heads", json!(9)),
        ("key_value_heads", json!(3)),
        ("vocabulary", json!(49_152)),
        ("context_length", json!(8_192)),
        ("parameters", json!(134_515_008)),
        ("chat_template", json!(true)),
        ("bytes", json!(std::fs::metadata(&path).unwrap().len())),
        ("refused", Value::Null),
    ] {
        assert_eq!(report[name], expected, "{name}");
    }
    assert_eq!(report["tensors"].as_array().map(Vec::len), Some(272));
    let types = report["types"].as_object().unwrap();
    let counted: u64 = types.values().filter_map(|each| each["tensors"].as_u64()).sum();
    assert_eq!(counted, 272);
    let text = String::from_utf8(inspect(&path, &[]).stdout).unwrap();
    assert!(text.contains("parameters") && text.contains("134,515,008"), "{text}");
    assert!(text.contains("blk.*.attn_q.weight"), "{text}");
}

#[test]
fn an_adapter_is_judged_on_a_base_and_a_refusal_is_exit_code_1_with_its_code() {
    let base = ["--model", model().to_str().unwrap()].map(str::to_owned);
    let base = base.each_ref().map(String::as_str);
    let adapter = fixture("adapters/rslora-r4-patterns");
    let accepted = report(&adapter, &base);
    assert_eq!(
        (&accepted["accepted"], &accepted["refused"]),
        (&json!(true), &Value::Null)
    );
    assert!(report(&adapter, &[]).get("accepted").is_none());
    let output = inspect(&fixture("tiny/gpt2/adapter"), &[&base[..], &["--json"]].concat());
    let refused: Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = refused["refused"]["code"].as_str().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(code.starts_with("adapter_") && error.contains(code), "{error}");
}

#[test]
fn what_is_neither_is_exit_code_1_and_what_is_not_there_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.gguf");
    std::fs::write(&file, "no model at all").unwrap();
    for (path, code, expected) in [
        (file.as_path(), 1, "magic: expected GGUF"),
        (Path::new("nowhere"), 2, "\"nowhere\" is neither"),
        (&folder.path().join("notes"), 2, "is neither"),
    ] {
        let output = inspect(path, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && error.contains(expected),
            "{error}"
        );
    }
}
