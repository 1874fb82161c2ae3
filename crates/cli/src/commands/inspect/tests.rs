//! What is said of tiny models and adapters, and that broken files are refused and never more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::inspection::Inspection;
use super::*;
use crate::args::ModelArgs;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn args(path: &Path, model: Option<&Path>) -> InspectArgs {
    InspectArgs {
        path: path.to_owned(),
        base: ModelArgs {
            model: model.map(|model| model.to_str().unwrap().to_owned()),
            ..ModelArgs::default()
        },
        tensors: false,
        json: false,
    }
}

fn inspected(path: &Path, model: Option<&Path>) -> Result<Inspection> {
    let args = args(path, model);
    match Found::at(&args)? {
        Found::Model(path) => Ok(model::inspect(&path)),
        Found::Adapter(path) => adapter::inspect(&path, &args.base),
    }
}

/// Copies of files below a new folder.
fn copied(files: &[PathBuf]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn tiny(arch: &str) -> tempfile::TempDir {
    copied(&[files(&fixture("tiny").join(arch)), files(&fixture("tiny-tokenizer"))].concat())
}

#[test]
fn a_folder_is_described_by_its_architecture_and_its_tensors_in_groups() {
    let folder = tiny("gemma3");
    fs::write(
        folder.path().join("README.md"),
        "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n",
    )
    .unwrap();
    let inspection = inspected(folder.path(), None).unwrap();
    assert!(inspection.verdict().is_ok(), "{inspection:?}");
    let json = inspection.json(true);
    for (name, expected) in [
        ("kind", json!("Hugging Face folder")),
        ("architecture", json!("gemma3_text")),
        ("layers", json!(4)),
        ("vocabulary", json!(256)),
        ("licence", json!("apache-2.0")),
        ("chat_template", json!(true)),
        ("refused", json!(null)),
    ] {
        assert_eq!(json[name], expected, "{name}");
    }
    let tensors = json["tensors"].as_array().unwrap();
    let groups = json["groups"].as_array().unwrap();
    let sum =
        |items: &[serde_json::Value], name: &str| items.iter().filter_map(|item| item[name].as_u64()).sum::<u64>();
    assert_eq!(sum(groups, "tensors"), tensors.len() as u64);
    assert_eq!(sum(groups, "bytes"), sum(tensors, "bytes"));
    assert!(
        groups
            .iter()
            .any(|group| group["name"] == "model.layers.*.self_attn.q_proj.weight"),
        "{json:#}"
    );
    let text = inspection.text(false);
    assert!(
        text.contains("\nparameters ") && text.contains("model.layers.*.mlp.up_proj.weight"),
        "{text}"
    );
    assert!(!text.contains("layers.0."), "{text}");
    assert!(inspection.text(true).contains("layers.0."));
}

#[test]
fn a_quantized_folder_says_how() {
    let dir = copied(&[files(&fixture("tiny-int4/gptq")), files(&fixture("tiny-tokenizer"))].concat());
    let inspection = inspected(dir.path(), None).unwrap();
    assert!(inspection.verdict().is_ok(), "{inspection:?}");
    let json = inspection.json(false);
    assert_eq!(
        (&json["quantization"], json["types"].get("I32").is_some()),
        (&json!("gptq"), true)
    );
    assert!(
        (4.0..32.0).contains(&json["bits_per_weight"].as_f64().unwrap()),
        "{json:#}"
    );
}

#[test]
fn an_adapter_is_described_by_itself_and_judged_on_a_base() {
    let folder = tiny("llama3-rope");
    let own = fixture("tiny/llama3-rope/adapter");
    let alone = inspected(&own, None).unwrap();
    assert!(
        alone.verdict().is_ok() && !alone.facts.contains_key("accepted"),
        "{alone:?}"
    );
    assert_eq!(alone.facts["kind"], "adapter, PEFT folder");
    let settings = &alone.facts["settings"];
    let scale = settings["lora_alpha"].as_f64().unwrap() / settings["r"].as_f64().unwrap();
    assert_eq!(
        (&alone.facts["scale"], &alone.facts["ranks"]),
        (&json!(scale), &json!([settings["r"]]))
    );
    let accepted = inspected(&own, Some(folder.path())).unwrap();
    assert_eq!(accepted.facts["accepted"], true);
    assert!(accepted.facts["effects"].as_u64() > Some(0), "{accepted:?}");
    for (path, base, kind) in [
        ("gguf-lora/tiny/llama3-rope.gguf", true, "adapter, GGUF file"),
        ("bottleneck/pfeiffer", true, "adapter, AdapterHub folder"),
    ] {
        let base = base.then_some(folder.path());
        let inspection = inspected(&fixture(path), base).unwrap();
        assert_eq!(
            (&inspection.facts["kind"], &inspection.facts["accepted"]),
            (&json!(kind), &json!(true))
        );
    }
    let stranger = inspected(&fixture("tiny/gpt2/adapter"), Some(folder.path())).unwrap();
    let error = stranger.verdict().unwrap_err().to_string();
    assert!(
        error.contains("(adapter_") && stranger.facts["accepted"] == false,
        "{error}"
    );
}

#[test]
fn a_refusal_is_that_of_opening() {
    let folder = tiny("qwen2");
    let config = folder.path().join("config.json");
    let changed = fs::read_to_string(&config).unwrap().replacen("qwen2", "qwen99", 1);
    fs::write(&config, changed).unwrap();
    let inspection = inspected(folder.path(), None).unwrap();
    let opened = rootstock_model::Checkpoint::open(folder.path())
        .err()
        .unwrap()
        .to_string();
    assert_eq!(inspection.verdict().unwrap_err().to_string(), opened);
    assert_eq!(inspection.json(false)["refused"]["reason"], opened);
    let empty = tempfile::tempdir().unwrap();
    let error = inspected(empty.path(), None).unwrap_err().to_string();
    assert!(error.contains("expected a model or an adapter"), "{error}");
}

/// Each file of a folder, cut short in many places, beside the others whole.
fn each_cut(files: &[PathBuf], inspect: impl Fn(&Path)) {
    for broken in files {
        let whole = fs::read(broken).unwrap();
        for cut in [
            0,
            1,
            4,
            7,
            8,
            9,
            20,
            64,
            whole.len() / 3,
            whole.len() / 2,
            whole.len() - 1,
        ] {
            let folder = copied(files);
            let path = folder.path().join(broken.file_name().unwrap());
            fs::write(&path, &whole[..cut.min(whole.len())]).unwrap();
            inspect(folder.path());
            // Bytes of another kind in its middle.
            let mut garbled = whole.clone();
            garbled[cut.min(whole.len() - 1)..]
                .iter_mut()
                .take(16)
                .for_each(|byte| *byte = !*byte);
            fs::write(&path, garbled).unwrap();
            inspect(folder.path());
        }
    }
}

#[test]
fn broken_files_are_refused_or_described_and_never_more() {
    let refused = std::cell::Cell::new(0);
    let inspect = |path: &Path| {
        let outcome = inspected(path, None).and_then(|inspection| {
            assert!(!inspection.text(true).is_empty() && inspection.json(true).is_object());
            inspection.verdict()
        });
        refused.set(refused.get() + usize::from(outcome.is_err()));
    };
    each_cut(&files(tiny("qwen3").path()), inspect);
    each_cut(&files(&fixture("tiny/qwen3/adapter")), inspect);
    each_cut(&files(&fixture("bottleneck/pfeiffer-head")), inspect);
    each_cut(&[fixture("gguf-lora/tiny/qwen3.gguf")], |folder| {
        inspect(&folder.join("qwen3.gguf"))
    });
    assert!(refused.get() > 50, "{}", refused.get());
}
