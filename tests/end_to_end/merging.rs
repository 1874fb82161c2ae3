//! `merge`, `extract` and `convert-adapter` as commands: what they write is served, and what goes wrong loses nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

use crate::server::{BASE, ROOTSTOCK, Server, fixture, model};
use crate::tiny::{Expected, copy_files, distance, scored, write_model};

/// A tiny model with its tokenizer, its adapter, and room for results.
struct World {
    scratch: tempfile::TempDir,
    model: PathBuf,
    adapter: PathBuf,
}

fn world(arch: &str) -> World {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapter) = (scratch.path().join("model"), scratch.path().join("tenant"));
    write_model(arch, &model);
    copy_files(&fixture("tiny").join(arch).join("adapter"), &adapter);
    World {
        scratch,
        model,
        adapter,
    }
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(ROOTSTOCK);
        command.arg(name).arg("--model").arg(&self.model);
        command
    }

    /// Everything in the folder of results that is not an input, hidden names included.
    fn results(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "model" && name != "tenant").collect();
        names.sort();
        names
    }
}

/// What a command that must succeed printed, as JSON.
fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The exit code and the message of a command that must fail.
fn refused(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} succeeded");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_merged_model_is_served_and_the_adapter_is_taken_out_of_it_again() {
    let world = world("llama3-rope");
    let template = "chat_template = \"{{ messages[0].content }}!\"\nsystem_prompt = \"Be brief.\"\n";
    fs::write(world.adapter.join("rootstock.toml"), template).unwrap();
    let merged = world.path("merged");
    let mut merge = world.command("merge");
    merge.arg("--adapter").arg(&world.adapter).arg("--output").arg(&merged);
    let summary = json(&mut merge);
    assert_eq!(summary["changed"].as_array().unwrap().len(), 4 * 7, "{summary}");
    assert!(summary["changed"][0]["relative"].as_f64().unwrap() > 0.0);
    assert_eq!(
        fs::read_to_string(merged.join("chat_template.jinja")).unwrap(),
        "{{ messages[0].content }}!"
    );
    assert!(fs::read_to_string(merged.join("README.md")).unwrap().contains("tenant"));
    let expected = Expected::of("llama3-rope");
    let ids = expected.ids();
    let server = Server::start_on(&merged, &["--activations", "f32"]);
    let (most, _) = distance(&scored(&server, BASE, &ids), &expected.logprobs("adapter_logits", &ids));
    assert!(most <= 1e-3, "merged: {most}");

    let adapters = world.path("adapters");
    let mut extract = world.command("extract");
    extract
        .arg("--tuned")
        .arg(&merged)
        .args(["--rank", "4", "--output"])
        .arg(adapters.join("again"));
    let summary = json(&mut extract);
    assert!(summary["captured"].as_f64().unwrap() > 0.999_99, "{summary}");
    assert_eq!(summary["rest"].as_array().unwrap().len(), 0);
    let flags = ["--activations", "f32", "--adapters", adapters.to_str().unwrap()];
    let server = Server::start_on(&world.model, &flags);
    let (most, _) = distance(
        &scored(&server, "again", &ids),
        &expected.logprobs("adapter_logits", &ids),
    );
    assert!(most <= 1e-3, "taken out: {most}");
}

#[test]
fn a_gguf_file_is_written_in_a_type_that_is_named_and_in_no_other_way() {
    let world = world("llama3-rope");
    let file = world.path("merged.gguf");
    let merge = |flags: &[&str]| {
        let mut command = world.command("merge");
        command
            .arg("--adapter")
            .arg(&world.adapter)
            .args(flags)
            .arg("--output")
            .arg(&file);
        command
    };
    let (code, error) = refused(&mut merge(&[]));
    assert!(
        code == 2 && error.contains("--type") && world.results().is_empty(),
        "{error}"
    );
    json(&mut merge(&["--type", "f32"]));
    let expected = Expected::of("llama3-rope");
    let ids = expected.ids();
    let golden = expected.logprobs("adapter_logits", &ids);
    let server = Server::start_on(&file, &["--activations", "f32"]);
    let (most, _) = distance(&scored(&server, BASE, &ids), &golden);
    assert!(most <= 1e-3, "{most}");
    drop(server);
    json(&mut merge(&["--type", "q8_0", "--overwrite"]));
    let server = Server::start_on(&file, &["--activations", "f32"]);
    let (most, _) = distance(&scored(&server, BASE, &ids), &golden);
    assert!(most > 1e-3 && most < 0.3, "{most}");
}

#[test]
fn an_output_layer_that_is_untied_is_a_tensor_of_a_gguf_file_too() {
    let world = world("qwen3");
    let (file, adapter) = (world.path("merged.gguf"), fixture("tiny-adapters/saved-head-tied"));
    let mut merge = world.command("merge");
    json(
        merge
            .arg("--adapter")
            .arg(&adapter)
            .args(["--type", "f32", "--output"])
            .arg(&file),
    );
    let ids = Expected::of("qwen3").ids();
    let golden = Expected::read(&adapter.join("expected.safetensors")).logprobs("logits", &ids);
    let server = Server::start_on(&file, &["--activations", "f32"]);
    let (most, _) = distance(&scored(&server, BASE, &ids), &golden);
    assert!(most <= 1e-3, "{most}");
}

#[test]
fn a_converted_adapter_is_served_in_every_type_and_comes_back_the_same() {
    let world = world("llama3-rope");
    let adapters = world.path("adapters");
    fs::create_dir(&adapters).unwrap();
    let convert = |from: &Path, to: &Path, flags: &[&str]| {
        let mut command = world.command("convert-adapter");
        command.args(flags).arg(from).arg(to);
        json(&mut command)
    };
    for kind in ["f32", "q8_0"] {
        let file = adapters.join(format!("{kind}.gguf"));
        assert_eq!(convert(&world.adapter, &file, &["--type", kind])["tensors"], 4 * 7 * 2);
    }
    convert(&adapters.join("f32.gguf"), &adapters.join("back"), &[]);
    let weights = "adapter_model.safetensors";
    let values = |dir: &Path| fs::read(dir.join(weights)).unwrap().len();
    assert!(values(&adapters.join("back")) > 0);
    let flags = ["--activations", "f32", "--adapters", adapters.to_str().unwrap()];
    let server = Server::start_on(&world.model, &flags);
    let expected = Expected::of("llama3-rope");
    let ids = expected.ids();
    let golden = expected.logprobs("adapter_logits", &ids);
    for (name, bound) in [("f32", 1e-3), ("back", 1e-3), ("q8_0", 0.1)] {
        let (most, _) = distance(&scored(&server, name, &ids), &golden);
        assert!(most <= bound, "{name}: {most}");
    }
    let (most, _) = distance(&scored(&server, BASE, &ids), &golden);
    assert!(most > 0.5, "the base is as near: {most}");
}

#[test]
fn an_output_that_is_there_is_replaced_on_demand_only_and_nothing_else_is() {
    let world = world("qwen3");
    let merged = world.path("merged");
    let merge = |flags: &[&str], output: &Path| {
        let mut command = world.command("merge");
        command
            .arg("--adapter")
            .arg(&world.adapter)
            .args(flags)
            .arg("--output")
            .arg(output);
        command
    };
    json(&mut merge(&[], &merged));
    let before = fs::read(merged.join("model.safetensors")).unwrap();
    let (code, error) = refused(&mut merge(&[], &merged));
    assert!(
        code == 2 && error.contains("not empty") && error.contains("--overwrite"),
        "{error}"
    );
    assert_eq!(fs::read(merged.join("model.safetensors")).unwrap(), before);
    json(&mut merge(&["--overwrite", "--dtype", "bf16"], &merged));
    assert!(fs::read(merged.join("model.safetensors")).unwrap().len() < before.len());
    // What is no result of ours stays, and so does what is read.
    let other = world.path("letters");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter.txt"), "Dear").unwrap();
    let (code, error) = refused(&mut merge(&["--overwrite"], &other));
    assert!(code == 2 && error.contains("nothing else is replaced"), "{error}");
    let (code, error) = refused(&mut merge(&["--overwrite"], &world.model));
    assert!(code == 2 && error.contains("holds what is read"), "{error}");
    assert_eq!(world.results(), ["letters", "merged"]);
}

#[test]
fn what_cannot_be_merged_is_refused_with_its_reason_and_leaves_nothing() {
    let world = world("llama3-rope");
    let merge = |adapter: &Path, flags: &[&str]| {
        let mut command = world.command("merge");
        let output = world.path("merged");
        refused(
            command
                .arg("--adapter")
                .arg(adapter)
                .args(flags)
                .arg("--output")
                .arg(output),
        )
    };
    let cases: [(PathBuf, &[&str], i32, &str); 7] = [
        (fixture("bottleneck/houlsby"), &[], 1, "not linear"),
        (fixture("tiny/phi3/adapter"), &[], 1, "adapter_"),
        (fixture("gguf-lora/tiny/qwen3.gguf"), &[], 1, "adapter_wrong_base"),
        (world.path("nowhere"), &[], 2, "nowhere"),
        (world.adapter.clone(), &["--method", "ties"], 2, "--density"),
        (world.adapter.clone(), &["--density", "0.5"], 2, "--density"),
        (
            world.adapter.clone(),
            &["--method", "dare", "--density", "1.5"],
            2,
            "--density",
        ),
    ];
    for (adapter, flags, code, reason) in cases {
        let got = merge(&adapter, flags);
        assert!(
            got.0 == code && got.1.contains(reason),
            "{}: {got:?}",
            adapter.display()
        );
    }
    assert_eq!(world.results(), [""; 0]);
}

#[test]
fn an_adapter_whose_base_is_recorded_is_merged_into_no_other() {
    let world = world("llama3-rope");
    let config = world.adapter.join("adapter_config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    fields["rootstock_base_hash"] = "0".repeat(64).into();
    fs::write(&config, fields.to_string()).unwrap();
    let mut merge = world.command("merge");
    merge
        .arg("--adapter")
        .arg(&world.adapter)
        .arg("--output")
        .arg(world.path("merged"));
    let (code, error) = refused(&mut merge);
    assert!(code == 1 && error.contains("adapter_wrong_base"), "{error}");
    assert_eq!(world.results(), [""; 0]);
}

#[test]
fn adapters_are_blended_by_ties_and_dare_with_the_same_result_each_time() {
    let world = world("mistral");
    let [first, second] = ["sum-first", "sum-second"].map(|name| fixture("tiny-adapters").join(name));
    let merge = |name: &str, flags: &[&str]| {
        let mut command = world.command("merge");
        let weighted = [format!("{}=0.7", first.display()), format!("{}=-0.4", second.display())];
        command
            .arg("--adapter")
            .arg(&weighted[0])
            .arg("--adapter")
            .arg(&weighted[1]);
        let summary = json(command.args(flags).arg("--output").arg(world.path(name)));
        assert!(summary["adapters"][1]["weight"].as_f64().unwrap() < -0.39, "{summary}");
        fs::read(world.path(name).join("model.safetensors")).unwrap()
    };
    let linear = merge("linear", &[]);
    let ties = merge("ties", &["--method", "ties", "--density", "0.4"]);
    let dare = merge("dare", &["--method", "dare-ties", "--density", "0.4", "--seed", "1"]);
    assert!(linear != ties && ties != dare && linear.len() == ties.len());
    assert_eq!(
        dare,
        merge(
            "again",
            &[
                "--method",
                "dare_ties",
                "--density",
                "0.4",
                "--seed",
                "1",
                "--threads",
                "1"
            ]
        )
    );
    assert_ne!(
        dare,
        merge("other", &["--method", "dare-ties", "--density", "0.4", "--seed", "2"])
    );
}

/// A limit on the size of files stands for a disk without room: writes fail half way.
#[test]
fn a_disk_that_is_full_leaves_nothing_behind() {
    let world = world("qwen3");
    let merged = world.path("merged");
    let run = |name: &str, arguments: &[&str], output: &Path| {
        let line = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
        let mut command = Process::new("sh");
        command.args(["-c", line, "sh", ROOTSTOCK, name, "--model"]);
        command.arg(&world.model).args(arguments).arg(output);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        error
    };
    let adapter = world.adapter.to_str().unwrap();
    let error = run("merge", &["--adapter", adapter, "--output"], &merged);
    assert!(error.contains("model.safetensors"), "{error}");
    let error = run("convert-adapter", &[adapter], &world.path("adapter.gguf"));
    assert!(error.contains("adapter.gguf"), "{error}");
    assert_eq!(world.results(), [""; 0]);
}

#[test]
fn a_merge_that_is_killed_leaves_nothing_under_its_name_and_the_next_one_succeeds() {
    let scratch = tempfile::tempdir().unwrap();
    let merged = scratch.path().join("merged");
    let start = || {
        let mut command = Process::new(ROOTSTOCK);
        command
            .arg("merge")
            .arg("--model")
            .arg(model())
            .arg("--adapter")
            .arg(fixture("adapters/r16-qv"));
        command.args(["--dtype", "bf16", "--output"]).arg(&merged);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut killed = start();
    let part = scratch.path().join(".merged.part/model.safetensors");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !part.exists() {
        assert!(Instant::now() < deadline, "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!merged.exists(), "there is half a model");
    assert!(start().wait().unwrap().success());
    assert!(merged.join("config.json").is_file() && !scratch.path().join(".merged.part").exists());
}
