//! `rootstock quantize`: files that are read as what they were made from, and outputs that are whole or not there.

use std::fs;
use std::path::Path;
use std::process::{Command as Program, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

use crate::server::{ROOTSTOCK, fixture, model};
use crate::tiny::{ARCHITECTURES, write_model};

fn quantize(model: &Path, output: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(ROOTSTOCK);
    command
        .arg("quantize")
        .arg("--model")
        .arg(model)
        .arg("--output")
        .arg(output);
    command.args(flags).output().unwrap()
}

/// The JSON of a run that succeeds.
fn report(model: &Path, output: &Path, flags: &[&str]) -> Value {
    let run = quantize(model, output, &[flags, &["--json"]].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

fn refusal(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn kl(report: &Value) -> f64 {
    report["comparison"]["models"][1]["kl"]["mean"].as_f64().unwrap()
}

fn whale() -> String {
    fixture("eval/whale.txt").to_str().unwrap().to_owned()
}

#[test]
fn folders_of_every_architecture_become_files_that_compute_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for arch in ARCHITECTURES {
        let source = dir.path().join(arch);
        write_model(arch, &source);
        let output = dir.path().join(format!("{arch}.gguf"));
        let text = ["--text", &whale(), "--tokens", "64"];
        let exact = report(&source, &output, &[&["--type", "f32"], &text[..]].concat());
        assert!(kl(&exact) < 1e-6, "{arch}: {}", kl(&exact));
        let rounded = report(
            &source,
            &output,
            &[&["--type", "q8_0", "--overwrite"], &text[..]].concat(),
        );
        assert!(rounded["bytes"].as_u64() < exact["bytes"].as_u64(), "{arch}");
        assert!((0.0..0.01).contains(&kl(&rounded)), "{arch}: {}", kl(&rounded));
        for tensor in rounded["tensors"].as_array().unwrap() {
            // Learned positions are added up and never multiplied: they are kept.
            let expected = if tensor["name"] == "position_embd.weight" {
                "F32"
            } else {
                "Q8_0"
            };
            assert_eq!(tensor["type"], expected, "{arch}: {tensor}");
            assert!(tensor["error"].as_f64().unwrap() < 0.02, "{arch}: {tensor}");
        }
    }
}

#[test]
fn folders_of_integers_are_read_as_what_they_were_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write_model("llama-bias", &source);
    let text = whale();
    let run = |name: &str, flags: &[&str]| {
        let flags = [&["--text", &text, "--tokens", "64", "--group-size", "32"], flags].concat();
        report(&source, &dir.path().join(name), &flags)
    };
    let eight = run("eight", &["--bits", "8"]);
    assert!((0.0..0.01).contains(&kl(&eight)), "{}", kl(&eight));
    let four = run("four", &["--asymmetric"]);
    let gptq = run("gptq", &["--format", "gptq", "--asymmetric"]);
    assert_eq!(kl(&four), kl(&gptq), "the layouts hold the same");
    assert!(kl(&four) > kl(&eight) && four["bytes"].as_u64() < eight["bytes"].as_u64());
    for tensor in four["tensors"].as_array().unwrap() {
        assert_eq!(tensor["type"], "I4", "{tensor}");
        assert!((0.0..0.2).contains(&tensor["error"].as_f64().unwrap()), "{tensor}");
    }
    let calibration = ["--calibration", &text, "--calibration-length", "64", "--asymmetric"];
    let calibrated = |name: &str, method: &[&str]| run(name, &[&calibration[..], method].concat());
    let [fed, near] = [
        calibrated("fed", &[]),
        calibrated("near", &["--method", "nearest", "--scale-inputs"]),
    ];
    assert!(fed["tensors"][0]["output_error"].as_f64().is_some(), "{fed}");
    for found in [fed, near] {
        assert!((0.0..0.5).contains(&kl(&found)), "{}", kl(&found));
    }
}

#[test]
fn types_are_those_that_were_asked_for_and_fewer_bits_are_further_away() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("small.gguf");
    let text = ["--text", &whale(), "--tokens", "256", "--overwrite"];
    let mut last = f64::INFINITY;
    for (name, maps) in [("q4_0", "Q4_0"), ("q5_0", "Q5_0"), ("q8_0", "Q8_0")] {
        let found = report(&model(), &output, &[&["--type", name], &text[..]].concat());
        let tensors = found["tensors"].as_array().unwrap();
        assert!(
            tensors
                .iter()
                .all(|tensor| tensor["type"] == maps || tensor["name"] == "token_embd.weight")
        );
        assert!(kl(&found) < last, "{name}: {} after {last}", kl(&found));
        last = kl(&found);
    }
    // Rows of 576 are no blocks of 256; what leads down is 1536 wide.
    let mixed = [
        "--type",
        "q4_k",
        "--tensor-type",
        "blk.3.*=q6_k",
        "--tensor-type",
        "blk.3.attn_q.weight=f16",
        "--overwrite",
    ];
    let found = report(&model(), &output, &mixed);
    let of = |name: &str| {
        let mut tensors = found["tensors"].as_array().unwrap().iter();
        tensors.find(|tensor| tensor["name"] == name).unwrap()["type"].clone()
    };
    for (name, expected) in [
        ("blk.0.ffn_down.weight", "Q4_K"),
        ("blk.0.attn_q.weight", "Q5_0"),
        ("blk.3.ffn_down.weight", "Q6_K"),
        ("blk.3.attn_k.weight", "Q8_0"),
        ("blk.3.attn_q.weight", "F16"),
        ("token_embd.weight", "Q8_0"),
    ] {
        assert_eq!(of(name), expected, "{name}");
    }
}

#[test]
fn a_calibration_text_brings_outputs_nearer_and_every_thread_count_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write_model("qwen2", &source);
    let text = fixture("eval/whale.txt");
    let calibration = [
        "--type",
        "q4_0",
        "--calibration",
        text.to_str().unwrap(),
        "--calibration-length",
        "64",
    ];
    let run = |name: &str, flags: &[&str]| {
        let output = dir.path().join(format!("{name}.gguf"));
        let found = report(&source, &output, &[&calibration[..], flags].concat());
        (fs::read(output).unwrap(), found)
    };
    let (nearest, _) = run("nearest", &["--method", "nearest"]);
    let (one, gptq) = run("one", &["--threads", "1"]);
    let (three, _) = run("three", &["--threads", "3"]);
    assert!(one == three, "threads change the file");
    assert!(one != nearest);
    let tensors = gptq["tensors"].as_array().unwrap();
    let known = tensors
        .iter()
        .filter(|tensor| tensor["output_error"].as_f64().is_some());
    assert_eq!(known.count(), tensors.len() - 1, "all but the embedding");
    let (scaled, _) = run("scaled", &["--method", "nearest", "--scale-inputs"]);
    assert!(scaled != nearest);
}

#[test]
fn types_can_be_chosen_within_a_distance() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write_model("llama-bias", &source);
    let sizes = ["0.0001", "100"].map(|most| {
        let text = whale();
        let flags = [
            "--calibration",
            &text,
            "--calibration-length",
            "64",
            "--auto",
            "--max-kl",
            most,
            "--overwrite",
        ];
        report(&source, &dir.path().join("auto.gguf"), &flags)["bytes"]
            .as_u64()
            .unwrap()
    });
    assert!(sizes[0] > sizes[1], "{sizes:?}");
}

#[test]
fn what_cannot_be_done_is_said_and_an_output_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("model.gguf");
    fs::write(&output, b"stock").unwrap();
    let (code, text) = refusal(&quantize(&model(), &output, &[]));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--overwrite"), "{text}");
    for (flags, expected) in [
        (&["--type", "q4"][..], "q4_k"),
        (&["--tensor-type", "blk.99.*=q8_0"], "blk.99.*"),
        (&["--method", "gptq"], "--calibration"),
        (&["--scale-inputs"], "--calibration"),
        (&["--calibration", "no-such-file"], "no-such-file"),
        (&["--auto", "--max-kl", "0.1"], "--calibration"),
        (&["--bits", "4"], "for a folder"),
        (&["--format", "gptq"], "model.gguf"),
    ] {
        let (code, text) = refusal(&quantize(&model(), &output, &[&["--overwrite"], flags].concat()));
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        assert!(text.contains(expected), "{flags:?}: {text}");
    }
    let (code, text) = refusal(&quantize(
        &model(),
        &dir.path().join("x"),
        &["--tensor-type", "output=q8_0"],
    ));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("ends in .gguf"), "{text}");
    let garbage = dir.path().join("garbage.gguf");
    fs::write(&garbage, b"GGUF and nothing that follows").unwrap();
    let (code, text) = refusal(&quantize(&garbage, &output, &["--overwrite"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("garbage.gguf"), "{text}");
    assert_eq!(fs::read(&output).unwrap(), b"stock");
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("model.gguf");
    fs::write(&output, b"stock").unwrap();
    // Files may not grow beyond 8 MiB, and the signal about it is ignored, so that writing fails as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$@\"";
    let mut shell = Program::new("bash");
    shell.args([
        "-c",
        script,
        "bash",
        ROOTSTOCK,
        "quantize",
        "--overwrite",
        "--type",
        "q8_0",
        "--model",
    ]);
    let run = shell.arg(model()).arg("--output").arg(&output).output().unwrap();
    let (code, text) = refusal(&run);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("model.gguf"), "{text}");
    assert_eq!(fs::read(&output).unwrap(), b"stock");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_run_that_is_killed_leaves_the_output_as_it_was_and_the_next_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let (output, part) = (dir.path().join("model.gguf"), dir.path().join("model.gguf.part"));
    fs::write(&output, b"stock").unwrap();
    let mut command = Program::new(ROOTSTOCK);
    command
        .args(["quantize", "--overwrite", "--type", "q4_0", "--model"])
        .arg(model());
    let mut child = command
        .arg("--output")
        .arg(&output)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !part.exists() && begun.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(&output).unwrap(), b"stock");
    report(&model(), &output, &["--type", "q4_0", "--overwrite"]);
    assert!(fs::metadata(&output).unwrap().len() > 50 << 20);
    assert!(!part.exists());
}
