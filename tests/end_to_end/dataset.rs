//! `rootstock data`: what a run would be trained on, and what is wrong with it.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::server::{ROOTSTOCK, model};

const MAILS: [(&str, &str); 4] = [
    ("Subject: You won!!!\nThis e-mail is", " spam"),
    ("Subject: Re: build\nThis e-mail is", " ham"),
    ("Subject: cheap meds\nThis e-mail is", " spam"),
    ("Subject: you WON\nthis e-mail is", " spam"),
];

/// A file of these mails, in a folder that lives as long as the test.
fn mails(folder: &Path, mails: &[(&str, &str)]) -> String {
    let row =
        |(prompt, completion): &(&str, &str)| format!("{}\n", json!({"prompt": prompt, "completion": completion}));
    let path = folder.join("mails.jsonl");
    std::fs::write(&path, mails.iter().map(row).collect::<String>()).unwrap();
    path.display().to_string()
}

fn data(command: &str, file: &str, arguments: &[&str]) -> (Output, String) {
    let mut rootstock = Command::new(ROOTSTOCK);
    rootstock
        .args(["data", command, "--data_name", file])
        .arg("--model")
        .arg(model());
    let output = rootstock.args(arguments).output().unwrap();
    let out = String::from_utf8(output.stdout.clone()).unwrap();
    (output, out)
}

#[test]
fn a_preview_shows_what_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let file = mails(folder.path(), &MAILS);
    let (output, out) = data("preview", &file, &["--split", "train[1:]", "--rows", "1"]);
    assert!(output.status.success(), "{output:?}");
    let expected =
        format!("{file}:2: 13 tokens, 2 learned\nSubject: Re: build↵\nThis e-mail is⟦ ham<|im_end|>⟧\n\n1 of 3 rows\n");
    assert_eq!(out, expected);
    let (_, coloured) = data("preview", &file, &["--color", "always", "--rows", "1"]);
    assert!(
        coloured.contains("\u{1b}[1;32m spam\u{1b}[0m") && !coloured.contains('⟦'),
        "{coloured:?}"
    );
}

#[test]
fn a_preview_as_json_takes_a_template_and_a_length() {
    let folder = tempfile::tempdir().unwrap();
    let file = mails(folder.path(), &MAILS);
    let template = "### {prompt}\\n### {completion}";
    let (output, out) = data(
        "preview",
        &file,
        &["--text_template", template, "--max_length", "8", "--json"],
    );
    assert!(output.status.success(), "{output:?}");
    let row = &serde_json::from_str::<Value>(&out).unwrap()["rows"][0];
    assert_eq!(
        (&row["tokens"], &row["learned"], &row["ends"]),
        (&json!(8), &json!(7), &json!(false)),
        "{row}"
    );
    let text = |piece: &Value| piece["text"].as_str().unwrap().to_owned();
    let text: String = row["pieces"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(text, "### Subject: You won!!!\nThis");
    assert!(row["tokens_before_cutting"].as_u64().unwrap() > 8, "{row}");
}

#[test]
fn a_check_fails_on_leakage_and_rows_that_cannot_be_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = mails(folder.path(), &MAILS);
    let slices = ["--train_split", "train[:3]", "--eval_split", "train[3:]"];
    let (output, out) = data("check", &file, &slices);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let leak = format!("error: {file}:4: leakage: nearly the same as {file}:1, which is trained on\n");
    assert!(
        out.contains("3 rows to train on, 1 to evaluate on, 0 unreadable\n") && out.contains(&leak),
        "{out}"
    );

    let (output, out) = data("check", &file, &["--eval-share", "0", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let found = &report["findings"][0];
    assert_eq!(
        (&found["fault"], &found["place"]["line"]),
        (&json!("near-duplicate"), &json!(4)),
        "{report}"
    );

    std::fs::write(
        folder.path().join("mails.jsonl"),
        "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\n",
    )
    .unwrap();
    let (output, out) = data("check", &file, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        out.contains(&format!("error: {file}:2: unreadable: expected JSON")),
        "{out}"
    );
    let (output, _) = data("check", &file, &["--train-split", "train[:"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
