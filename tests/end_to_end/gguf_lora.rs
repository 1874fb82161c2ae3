//! GGUF adapters that llama.cpp's converter made of the golden ones, whose values they must give.

use std::fs;

use serde_json::{Map, json};

use crate::answers::{ask, assert_same, prompt_ids, question};
use crate::golden;
use crate::reference::{INT8, check};
use crate::server::{Server, fixture, fixture_adapters};

/// The golden adapters that are kept as GGUF too.
const NAMES: [&str; 3] = ["r1-down-late-layers", "r16-qv", "r8-all"];

/// A folder with the files as adapters `NAME`.
fn served_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        let file = format!("{name}.gguf");
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::copy(fixture("gguf-lora").join(&file), dir.path().join(name).join(&file)).unwrap();
    }
    dir
}

#[test]
fn they_give_the_values_of_the_adapters_they_were_made_from() {
    let dir = served_files();
    let server = Server::start(&["--adapters", dir.path().to_str().unwrap()]);
    let expected: Map<_, _> = golden::expected()
        .into_iter()
        .filter(|(name, _)| NAMES.contains(&name.as_str()))
        .collect();
    assert_eq!(expected.len(), NAMES.len());
    check(&server, &expected, &INT8);
    // Where the converter keeps every bit of the values, the answers are the same bits.
    let source = Server::start(&["--adapters", fixture_adapters()]);
    for name in ["r1-down-late-layers", "r8-all"] {
        let body = question(name, prompt_ids(3, 60), 20);
        assert_same(name, &[ask(&server, &body)], &[ask(&source, &body)]);
    }
}

#[test]
fn a_file_is_loaded_by_its_path() {
    let root = fixture("gguf-lora");
    let server = Server::start(&["--adapter-root", root.to_str().unwrap()]);
    let load = |name: &str, file: &str| {
        let body = json!({"lora_name": name, "lora_path": root.join(file)});
        server.post("/v1/load_lora_adapter", &body)
    };
    let loaded = load("r1-down-late-layers", "r1-down-late-layers.gguf");
    assert_eq!(loaded.status, 200, "{}", loaded.text);
    let expected = golden::expected();
    let one = Map::from_iter([(
        "r1-down-late-layers".to_owned(),
        expected["r1-down-late-layers"].clone(),
    )]);
    check(&server, &one, &INT8);
    // Made for another base: the tensors do not fit.
    let misfit = load("theirs", "tiny/llama3-rope.gguf");
    assert_eq!(misfit.status, 400, "{}", misfit.text);
    assert_eq!(misfit.code(), "adapter_shape_mismatch", "{}", misfit.text);
    let family = load("theirs", "tiny/qwen3.gguf");
    assert!((400..500).contains(&family.status), "{}", family.text);
    assert!(family.code().starts_with("adapter_"), "{}", family.text);
    server.assert_alive();
}
