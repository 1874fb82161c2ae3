//! Hugging Face folders served by the binary: every architecture with its adapter, shards, rounding at load.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::server::{BASE, ROOTSTOCK, Server, fixture};
use crate::tiny::{ARCHITECTURES, Expected, copy_files, distance, scored, write_model};

/// A model folder with a folder of adapters that holds its own as `tenant`.
struct World {
    _scratch: TempDir,
    model: PathBuf,
    adapters: PathBuf,
}

fn world(arch: &str) -> World {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapters) = (scratch.path().join("model"), scratch.path().join("adapters"));
    write_model(arch, &model);
    copy_files(&fixture("tiny").join(arch).join("adapter"), &adapters.join("tenant"));
    World {
        _scratch: scratch,
        model,
        adapters,
    }
}

impl World {
    fn serve(&self, flags: &[&str]) -> Server {
        let flags = [&["--adapters", self.adapters.to_str().unwrap()], flags].concat();
        Server::start_on(&self.model, &flags)
    }
}

/// Mean distances of base and adapter from the reference.
fn means(server: &Server, arch: &str) -> [f64; 2] {
    let expected = Expected::of(arch);
    let ids = expected.ids();
    [(BASE, "logits"), ("tenant", "adapter_logits")].map(|(model, values)| {
        let (_, mean) = distance(&scored(server, model, &ids), &expected.logprobs(values, &ids));
        mean
    })
}

#[test]
fn every_architecture_is_served_with_its_adapter() {
    for arch in ARCHITECTURES {
        let world = world(arch);
        let server = world.serve(&["--activations", "f32"]);
        let expected = Expected::of(arch);
        let ids = expected.ids();
        for (model, values) in [(BASE, "logits"), ("tenant", "adapter_logits")] {
            let (most, _) = distance(&scored(&server, model, &ids), &expected.logprobs(values, &ids));
            assert!(most <= 1e-3, "{arch}: {model} is {most} off");
        }
    }
}

#[test]
fn text_goes_through_the_folder_s_tokenizer_and_template() {
    let world = world("qwen3");
    let server = world.serve(&[]);
    let message = json!([{"role": "user", "content": "hé"}]);
    let body = json!({"model": "tenant", "messages": message, "max_tokens": 4, "return_token_ids": true});
    let reply = server.post("/v1/chat/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    let text = "<s>user: hé</s><s>assistant: ";
    let tokens = server.post("/tokenize", &json!({"model": BASE, "prompt": text})).json();
    let ids = &reply.json()["choices"][0]["prompt_token_ids"];
    assert_eq!(ids, &tokens["tokens"]);
    assert_eq!(ids[0], 1);
    let back = server
        .post("/detokenize", &json!({"model": BASE, "tokens": ids}))
        .json();
    assert_eq!(back["prompt"], text);
}

#[test]
fn rounding_at_load_stays_near_and_is_not_nothing() {
    for (arch, bits, most) in [
        ("llama3-rope", "8", 0.02),
        ("gpt2", "8", 0.02),
        ("phi3", "8", 0.02),
        ("qwen3", "4", 0.25),
    ] {
        let world = world(arch);
        for (activations, least) in [("int8", 1e-4), ("f32", 1e-4)] {
            let server = world.serve(&["--quantize", bits, "--activations", activations]);
            let means = means(&server, arch);
            println!("{arch} --quantize {bits} --activations {activations}: {means:?}");
            for mean in means {
                assert!((least..most).contains(&mean), "{arch} {bits} {activations}: {mean}");
            }
        }
    }
    // Said outright: as the files have it.
    let exact = world("llama3-rope");
    let means = means(
        &exact.serve(&["--quantize", "none", "--activations", "f32"]),
        "llama3-rope",
    );
    assert!(means.iter().all(|mean| *mean < 1e-3), "{means:?}");
}

#[test]
fn folders_in_four_bits_are_served_as_they_are() {
    for (name, arch) in [
        ("gptq", "llama3-rope"),
        ("awq", "qwen2"),
        ("compressed-tensors", "smollm3"),
    ] {
        let world = world(arch);
        let folder = fixture("tiny-int4").join(name);
        copy_files(&folder, &world.model);
        let expected = Expected::read(&folder.join("expected.safetensors"));
        let ids = expected.ids();
        let server = world.serve(&["--activations", "f32"]);
        for (model, values) in [(BASE, "logits"), ("tenant", "adapter_logits")] {
            let (most, _) = distance(&scored(&server, model, &ids), &expected.logprobs(values, &ids));
            assert!(most <= 1e-3, "{name}: {model} is {most} off");
        }
    }
}

/// Splits model.safetensors in two files and an index.
fn shard(dir: &Path) {
    let whole = dir.join("model.safetensors");
    let file = fs::read(&whole).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    header.remove("__metadata__");
    let mut map = Map::new();
    let names: Vec<&String> = header.keys().collect();
    for (number, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let (mut part, mut data) = (Map::new(), Vec::new());
        let shard = format!("model-0000{}-of-00002.safetensors", number + 1);
        for &name in names {
            let mut info = header[name].clone();
            let at = |index: usize| 8 + length + info["data_offsets"][index].as_u64().unwrap() as usize;
            let bytes = &file[at(0)..at(1)];
            info["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
            data.extend_from_slice(bytes);
            part.insert(name.clone(), info);
            map.insert(name.clone(), json!(shard));
        }
        let part = serde_json::to_vec(&part).unwrap();
        let prefix = (part.len() as u64).to_le_bytes();
        fs::write(dir.join(shard), [&prefix[..], &part, &data].concat()).unwrap();
    }
    fs::remove_file(whole).unwrap();
    let index = json!({"metadata": {"total_size": file.len() - 8 - length}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_one_model() {
    let world = world("smollm3");
    shard(&world.model);
    assert!(!world.model.join("model.safetensors").exists());
    let server = world.serve(&["--activations", "f32"]);
    let means = means(&server, "smollm3");
    assert!(means.iter().all(|mean| *mean < 1e-3), "{means:?}");
}

/// Starting on a folder that was changed in one way must end with an error that names it.
fn refused(arch: &str, change: impl FnOnce(&Path)) -> String {
    let world = world(arch);
    change(&world.model);
    let mut command = Command::new(ROOTSTOCK);
    let command = command.args(["serve", "--port", "0", "--model"]).arg(&world.model);
    let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| code != 0), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Sets a field of config.json.
fn with_field(name: &'static str, value: Value) -> impl FnOnce(&Path) {
    move |dir| {
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[name] = value;
        fs::write(path, config.to_string()).unwrap();
    }
}

#[test]
fn what_would_change_the_numbers_unseen_is_refused_by_name() {
    for (name, value) in [
        ("model_type", json!("mamba")),
        ("hidden_act", json!("relu")),
        ("logit_scale", json!(0.5)),
        ("num_hidden_layers", json!(5)),
        ("num_key_value_heads", json!(3)),
        (
            "rope_parameters",
            json!({"rope_type": "telepathic", "rope_theta": 10000.0}),
        ),
    ] {
        let error = refused("llama3-rope", with_field(name, value));
        let of_layers = name.starts_with("num_") && (error.contains("layers.4") || error.contains("proj"));
        assert!(
            error.contains(name) || error.contains("mamba") || error.contains("telepathic") || of_layers,
            "{name}: {error}"
        );
    }
    let error = refused("qwen2", |dir| {
        shard(dir);
        fs::remove_file(dir.join("model-00002-of-00002.safetensors")).unwrap();
    });
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    let error = refused("mistral", |dir| fs::remove_file(dir.join("tokenizer.json")).unwrap());
    assert!(error.contains("tokenizer"), "{error}");
}
