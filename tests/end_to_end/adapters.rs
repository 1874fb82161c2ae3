//! The life of an adapter: found in the watched folder, changed, removed; and every kind of adapter that must be refused.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapter_files::AdapterFiles;
use crate::answers::{answer_of, ask, assert_same, prompt_ids, question};
use crate::server::{BASE, Server, fixture_adapters};

fn small() -> AdapterFiles {
    AdapterFiles::fixture("r1-down-late-layers")
}

fn lists(server: &Server, name: &str) -> bool {
    let models = server.get("/v1/models").json();
    models["data"]
        .as_array()
        .unwrap()
        .iter()
        .any(|model| model["id"] == name)
}

fn wait(claim: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "still not: {claim}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_new_folder_is_served_only_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--adapters", dir.path().to_str().unwrap()]);
    let folder = dir.path().join("slow");
    let file = small().safetensors();
    fs::create_dir(&folder).unwrap();
    let mut written = 0;
    for part in file.chunks(file.len() / 8) {
        let mut weights = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("adapter_model.safetensors"))
            .unwrap();
        std::io::Write::write_all(&mut weights, part).unwrap();
        written += part.len();
        std::thread::sleep(Duration::from_millis(150));
        assert!(
            !lists(&server, "slow"),
            "served with {written} of {} bytes and no configuration",
            file.len()
        );
    }
    fs::write(folder.join("adapter_config.json"), small().config.to_string()).unwrap();
    wait("the whole folder is served", || lists(&server, "slow"));
    assert_ne!(ask(&server, &probe("slow")), ask(&server, &probe(BASE)));
}

fn probe(model: &str) -> Value {
    question(model, prompt_ids(3, 20), 8)
}

#[test]
fn a_changed_folder_becomes_a_new_generation_and_a_removed_one_goes() {
    let dir = tempfile::tempdir().unwrap();
    small().variant(1).write(&dir.path().join("tenant"));
    small().variant(2).write(&dir.path().join("reference"));
    let server = Server::start(&["--adapters", dir.path().to_str().unwrap()]);
    let (old, new) = (ask(&server, &probe("tenant")), ask(&server, &probe("reference")));
    assert_ne!(old, new);

    small().variant(2).write(&dir.path().join("tenant"));
    wait("the new generation answers", || ask(&server, &probe("tenant")) == new);

    fs::remove_dir_all(dir.path().join("tenant")).unwrap();
    wait("the removed adapter is gone", || !lists(&server, "tenant"));
    let reply = server.post("/v1/completions", &probe("tenant"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "model_not_found"));
    assert_same("its neighbour", &[ask(&server, &probe("reference"))], &[new]);
}

#[test]
fn a_running_request_ends_on_the_generation_it_started_with() {
    let dir = tempfile::tempdir().unwrap();
    small().variant(1).write(&dir.path().join("one"));
    small().variant(2).write(&dir.path().join("two"));
    let server = Server::start(&["--adapter-root", dir.path().to_str().unwrap()]);
    let load = |folder: &str| {
        let body = json!({"lora_name": "tenant", "lora_path": dir.path().join(folder), "load_inplace": true});
        assert_eq!(server.post("/v1/load_lora_adapter", &body).status, 200);
    };
    load("one");
    let long = question("tenant", prompt_ids(3, 20), 150);
    let expected = ask(&server, &long);
    for remove in [false, true] {
        load("one");
        let mut body = long.clone();
        body["stream"] = json!(true);
        let mut events = server.stream("/v1/completions", &body);
        let first = events.next().unwrap().unwrap();
        if remove {
            let reply = server.post("/v1/unload_lora_adapter", &json!({"lora_name": "tenant"}));
            assert_eq!(reply.status, 200, "{}", reply.text);
        } else {
            load("two");
        }
        let ids = |event: &Value| event["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default();
        let mut got = ids(&first);
        events.for_each(|event| got.extend(ids(&event.unwrap())));
        let got: Vec<u64> = got.iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(
            got,
            expected.ids,
            "after the adapter was {}",
            if remove { "removed" } else { "replaced" }
        );
    }
}

/// A way to break an adapter, and the code that it is refused with.
struct Refusal {
    kind: &'static str,
    code: &'static str,
    /// Named in the message.
    mentions: &'static str,
    write: fn(&Path),
}

fn broken(change: impl FnOnce(&mut AdapterFiles), dir: &Path) {
    let mut files = small();
    change(&mut files);
    files.write(dir);
}

fn rename(files: &mut AdapterFiles, suffix: &str, to: impl Fn(&str) -> Option<String>) {
    let name = files.tensors(suffix).remove(0);
    let tensor = files.header.remove(&name).unwrap();
    if let Some(name) = to(&name) {
        files.header.insert(name, tensor);
    }
}

fn fill(files: &mut AdapterFiles, suffix: &str, element: [u8; 4]) {
    for name in files.tensors(suffix) {
        files
            .bytes_mut(&name)
            .chunks_exact_mut(4)
            .for_each(|bytes| bytes.copy_from_slice(&element));
    }
}

/// Shapes of the pair of one site transposed: as many bytes, other sizes.
fn transpose_first(files: &mut AdapterFiles) {
    let name = files.tensors(".lora_A.weight").remove(0);
    files.header[&name]["shape"].as_array_mut().unwrap().reverse();
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        kind: "no folder",
        code: "adapter_not_found",
        mentions: "",
        write: |_| {},
    },
    Refusal {
        kind: "no weights",
        code: "adapter_not_found",
        mentions: "adapter_model.safetensors",
        write: |dir| {
            small().write(dir);
            fs::remove_file(dir.join("adapter_model.safetensors")).unwrap();
        },
    },
    Refusal {
        kind: "truncated",
        code: "adapter_malformed",
        mentions: "adapter_model.safetensors",
        write: |dir| {
            small().write(dir);
            let file = small().safetensors();
            fs::write(dir.join("adapter_model.safetensors"), &file[..file.len() - 100]).unwrap();
        },
    },
    Refusal {
        kind: "oversized",
        code: "adapter_malformed",
        mentions: "adapter_model.safetensors",
        write: |dir| broken(|files| files.data.extend([0; 64]), dir),
    },
    Refusal {
        kind: "a header that is no JSON",
        code: "adapter_malformed",
        mentions: "adapter_model.safetensors",
        write: |dir| {
            small().write(dir);
            let mut file = small().safetensors();
            file[8] = b'?';
            fs::write(dir.join("adapter_model.safetensors"), file).unwrap();
        },
    },
    Refusal {
        kind: "a configuration that is no JSON",
        code: "adapter_malformed",
        mentions: "adapter_config.json",
        write: |dir| {
            small().write(dir);
            fs::write(dir.join("adapter_config.json"), "{").unwrap();
        },
    },
    Refusal {
        kind: "pickle",
        code: "adapter_pickle_refused",
        mentions: "adapter_model.bin",
        write: |dir| {
            small().write(dir);
            fs::rename(dir.join("adapter_model.safetensors"), dir.join("adapter_model.bin")).unwrap();
        },
    },
    Refusal {
        kind: "another method",
        code: "adapter_unsupported_type",
        mentions: "IA3",
        write: |dir| broken(|files| files.config["peft_type"] = json!("IA3"), dir),
    },
    Refusal {
        kind: "an unknown field",
        code: "adapter_unsupported_field",
        mentions: "use_telepathy",
        write: |dir| broken(|files| files.config["use_telepathy"] = json!(true), dir),
    },
    Refusal {
        kind: "a known field that is not supported",
        code: "adapter_unsupported_field",
        mentions: "use_qalora",
        write: |dir| broken(|files| files.config["use_qalora"] = json!(true), dir),
    },
    Refusal {
        kind: "a tensor of no site",
        code: "adapter_unmapped_tensor",
        mentions: "mlp.sideways_proj",
        write: |dir| {
            broken(
                |files| {
                    for suffix in [".lora_A.weight", ".lora_B.weight"] {
                        rename(files, suffix, |name| Some(name.replace("down_proj", "sideways_proj")));
                    }
                },
                dir,
            );
        },
    },
    Refusal {
        kind: "a wrong shape",
        code: "adapter_shape_mismatch",
        mentions: "lora_A",
        write: |dir| broken(transpose_first, dir),
    },
    Refusal {
        kind: "a rank that is not the configured one",
        code: "adapter_shape_mismatch",
        mentions: "lora_",
        write: |dir| broken(|files| files.config["r"] = json!(2), dir),
    },
    Refusal {
        kind: "half a pair",
        code: "adapter_half_pair",
        mentions: "lora_B",
        write: |dir| {
            broken(
                |files| {
                    // The last tensor of the file, so that no hole is left in the data.
                    let name = files.tensors(".lora_B.weight").pop().unwrap();
                    let tensor = files.header.remove(&name).unwrap();
                    files
                        .data
                        .truncate(tensor["data_offsets"][0].as_u64().unwrap() as usize);
                },
                dir,
            );
        },
    },
    Refusal {
        kind: "not a number",
        code: "adapter_not_finite",
        mentions: "lora_B",
        write: |dir| {
            broken(
                |files| fill(files, "24.mlp.down_proj.lora_B.weight", f32::NAN.to_le_bytes()),
                dir,
            )
        },
    },
    Refusal {
        kind: "infinity",
        code: "adapter_not_finite",
        mentions: "lora_A",
        write: |dir| {
            broken(
                |files| fill(files, "29.mlp.down_proj.lora_A.weight", f32::INFINITY.to_le_bytes()),
                dir,
            )
        },
    },
    Refusal {
        kind: "no effect",
        code: "adapter_zero_delta",
        mentions: "",
        write: |dir| broken(|files| fill(files, ".lora_B.weight", [0; 4]), dir),
    },
    Refusal {
        kind: "too large a rank",
        code: "adapter_rank_too_large",
        mentions: "16",
        write: |dir| AdapterFiles::fixture("r16-qv").write(dir),
    },
    Refusal {
        kind: "another base",
        code: "adapter_wrong_base",
        mentions: "",
        write: |dir| broken(|files| files.config["rootstock_base_hash"] = json!("0".repeat(64)), dir),
    },
];

#[test]
fn what_cannot_take_full_effect_is_refused_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    small().write(&dir.path().join("sound"));
    let server = Server::start(&["--adapter-root", dir.path().to_str().unwrap(), "--max-lora-rank", "8"]);
    let load = |name: &str, folder: &Path| {
        server.post(
            "/v1/load_lora_adapter",
            &json!({"lora_name": name, "lora_path": folder, "load_inplace": true}),
        )
    };
    assert_eq!(load("tenant", &dir.path().join("sound")).status, 200);
    let before = ask(&server, &probe("tenant"));
    let mut misses = Vec::new();
    for (index, refusal) in REFUSALS.iter().enumerate() {
        let folder = dir.path().join(format!("refused-{index}"));
        (refusal.write)(&folder);
        let reply = load("tenant", &folder);
        let message = reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        let refused = (400..500).contains(&reply.status) && reply.code() == refusal.code;
        if !refused || !message.contains(refusal.mentions) {
            misses.push(format!(
                "{}: expected {}, got HTTP {} {}",
                refusal.kind, refusal.code, reply.status, reply.text
            ));
        }
        if lists(&server, "fresh") || load("fresh", &folder).status == 200 {
            misses.push(format!("{}: served under a new name", refusal.kind));
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
    let after = answer_of(&server.post("/v1/completions", &probe("tenant")).json());
    assert_same("the adapter that refused ones were to replace", &[after], &[before]);
    server.assert_alive();
}

#[test]
fn a_name_is_loaded_once_unless_in_place_and_an_unknown_one_cannot_be_unloaded() {
    let server = Server::start(&["--adapter-root", fixture_adapters()]);
    let folder = Path::new(fixture_adapters()).join("r16-qv");
    let load = |inplace: bool| {
        server.post(
            "/v1/load_lora_adapter",
            &json!({"lora_name": "tenant", "lora_path": folder, "load_inplace": inplace}),
        )
    };
    assert_eq!(load(false).status, 200);
    let again = load(false);
    assert!(
        (400..500).contains(&again.status) && !again.code().is_empty(),
        "{}",
        again.text
    );
    assert_eq!(load(true).status, 200);
    let base = server.post(
        "/v1/load_lora_adapter",
        &json!({"lora_name": BASE, "lora_path": folder, "load_inplace": true}),
    );
    assert!(
        (400..500).contains(&base.status) && !base.code().is_empty(),
        "the base was replaced: {}",
        base.text
    );
    let unload = |name: &str| server.post("/v1/unload_lora_adapter", &json!({"lora_name": name}));
    assert_eq!(unload("tenant").status, 200);
    let unknown = unload("tenant");
    assert_eq!(unknown.status, 404, "{}", unknown.text);
    assert!(!unknown.code().is_empty());
}

#[test]
fn a_refused_folder_among_watched_ones_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    small().write(&dir.path().join("sound"));
    broken(
        |files| files.config["peft_type"] = json!("IA3"),
        &dir.path().join("unsound"),
    );
    let server = Server::start(&["--adapters", dir.path().to_str().unwrap()]);
    assert!(lists(&server, "sound"));
    assert!(!lists(&server, "unsound"));
    assert!(server.log().contains("adapter_unsupported_type"), "{}", server.log());
    assert_eq!(ask(&server, &probe("sound")).ids.len(), 8);
}
