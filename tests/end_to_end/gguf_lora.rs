//! GGUF adapters that llama.cpp's converter made of the golden ones, whose values they must give.

use std::fs;

use serde_json::{Map, json};

use crate::golden;
use crate::reference::{F32, INT8, check};
use crate::server::{Server, fixture};

/// The golden adapters that are kept as GGUF too.
const NAMES: [&str; 3] = ["r1-down-late-layers", "r16-qv", "r8-all"];

#[test]
fn they_give_the_values_of_the_adapters_they_were_made_from() {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        fs::create_dir(dir.path().join(name)).unwrap();
        let file = format!("{name}.gguf");
        fs::copy(fixture("gguf-lora").join(&file), dir.path().join(name).join(&file)).unwrap();
    }
    let expected: Map<_, _> = golden::expected()
        .into_iter()
        .filter(|(name, _)| NAMES.contains(&name.as_str()))
        .collect();
    assert_eq!(expected.len(), NAMES.len());
    for (activations, tolerance) in [("int8", &INT8), ("f32", &F32)] {
        let flags = ["--adapters", dir.path().to_str().unwrap(), "--activations", activations];
        check(&Server::start_on(&crate::server::model(), &flags), &expected, tolerance);
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
