//! Bottleneck adapters as AdapterHub's library saves them: its values, alone and beside LoRA, and trained here.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::answers::{ask_alone, ask_together, assert_same, question};
use crate::server::{BASE, ROOTSTOCK, Server, fixture};
use crate::tiny::{Expected, copy_files, distance, scored, scoring, try_scored, write_model};

/// A server of a tiny checkpoint with some of tests/fixtures/bottleneck, and its LoRA adapter as `pairs`.
struct World {
    scratch: tempfile::TempDir,
    server: Server,
}

fn world(arch: &str, names: &[&str], flags: &[&str]) -> World {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapters) = (scratch.path().join("model"), scratch.path().join("adapters"));
    write_model(arch, &model);
    for name in names {
        copy_files(&fixture("bottleneck").join(name), &adapters.join(name));
    }
    copy_files(&fixture("tiny").join(arch).join("adapter"), &adapters.join("pairs"));
    let flags = [&["--adapters", adapters.to_str().unwrap()], flags].concat();
    World {
        server: Server::start_on(&model, &flags),
        scratch,
    }
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[test]
fn each_gives_the_library_s_values_at_its_scale_and_at_half() {
    for (arch, names) in [
        ("llama3-rope", &["houlsby", "pfeiffer", "pfeiffer-head"][..]),
        ("qwen3", &["houlsby-some-layers"]),
        ("gpt2", &["pfeiffer-gpt2"]),
    ] {
        let world = world(arch, names, &["--activations", "f32"]);
        let ids = Expected::of(arch).ids();
        for name in names {
            let expected = Expected::read(&fixture("bottleneck").join(name).join("expected.safetensors"));
            let (most, _) = distance(&scored(&world.server, name, &ids), &expected.logprobs("logits", &ids));
            assert!(most <= 1e-3, "{name} is {most} off");
            let half = with(scoring(name, &ids), "adapter_scale", json!(0.5));
            let half = try_scored(&world.server, &half).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (most, _) = distance(&half, &expected.logprobs("half", &ids));
            assert!(most <= 1e-3, "{name} at 0.5 is {most} off");
        }
    }
}

const MIXED: [&str; 5] = ["houlsby", "pfeiffer", "pfeiffer-head", "pairs", BASE];

/// Questions to every adapter and the base, at their scale and at half.
fn bodies() -> Vec<Value> {
    let each = MIXED.into_iter().enumerate().flat_map(|(index, name)| {
        let ids: Vec<u32> = (0..20 + index as u32 * 7)
            .map(|n| 3 + (n * 37 + index as u32 * 11) % 250)
            .collect();
        let body = question(name, ids, 40);
        let half = (name != BASE).then(|| with(body.clone(), "adapter_scale", json!(0.5)));
        [Some(body), half]
    });
    each.flatten().collect()
}

#[test]
fn beside_lora_in_one_batch_nobody_s_answer_changes_by_a_bit() {
    let names = &MIXED[..3];
    for flags in [
        &["--threads", "2"][..],
        &["--threads", "1", "--quantize", "4"],
        &["--max-batch-tokens", "24", "--activations", "f32"],
    ] {
        let alone = ask_alone(&world("llama3-rope", names, flags).server, &bodies());
        let together = ask_together(&world("llama3-rope", names, flags).server, &bodies());
        assert_same(&format!("{flags:?}"), &together, &alone);
        assert!(
            alone.windows(2).all(|pair| pair[0].ids != pair[1].ids),
            "{flags:?}: two answer the same"
        );
    }
}

#[test]
fn one_has_no_part_in_a_sum_and_can_be_taken_away_and_put_back() {
    let world = world("llama3-rope", &["houlsby"], &[]);
    let ids = Expected::of("llama3-rope").ids();
    let sum = json!([{"name": "pairs", "scale": 0.5}, {"name": "houlsby", "scale": 0.5}]);
    let refused = try_scored(&world.server, &with(scoring(BASE, &ids), "adapters", sum)).unwrap_err();
    for part in ["HTTP 400", "invalid_value", "\\\"houlsby\\\" has bottlenecks", "no sum"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let alone = json!([{"name": "houlsby", "scale": 1.0}]);
    let whole = try_scored(&world.server, &with(scoring(BASE, &ids), "adapters", alone)).unwrap();
    assert_eq!(whole, scored(&world.server, "houlsby", &ids));

    let name = json!({"lora_name": "houlsby"});
    assert_eq!(world.server.post("/v1/unload_lora_adapter", &name).status, 200);
    assert!(try_scored(&world.server, &scoring("houlsby", &ids)).is_err());
    let path = world.scratch.path().join("adapters/houlsby");
    let load = json!({"lora_name": "houlsby", "lora_path": path});
    let reply = world.server.post("/v1/load_lora_adapter", &load);
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(whole, scored(&world.server, "houlsby", &ids));
}

/// Trains on texts that begin alike; what the command prints.
fn finetune(folder: &Path, output: &str, flags: &[&str]) -> Value {
    let rows = (0..16).map(|index| {
        format!(
            "{}\n",
            json!({"text": format!("Row {index} says {}", "ham ".repeat(index % 3 + 1))})
        )
    });
    fs::write(folder.join("rows.jsonl"), rows.collect::<String>()).unwrap();
    let mut command = Command::new(ROOTSTOCK);
    command.arg("finetune").current_dir(folder);
    command.args([
        "--model",
        "model",
        "--data-name",
        "rows.jsonl",
        "--output",
        output,
        "--threads",
        "2",
        "--json",
    ]);
    command.args([
        "--precision",
        "f32",
        "--learning-rate",
        "1e-2",
        "--eval-share",
        "0.25",
        "--report-samples",
        "1",
    ]);
    let output = command.args(flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn both_kinds_are_trained_gone_on_with_and_served_beside_lora() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, adapters) = (scratch.path(), scratch.path().join("adapters"));
    write_model("llama3-rope", &folder.join("model"));
    let loss = |result: &Value| result["eval_loss"].as_f64().unwrap();
    for (method, file) in [("houlsby", "attention_adapters"), ("pfeiffer", "output_adapters")] {
        let flags = ["--method", method, "--max-steps", "8", "--eval-steps", "8"];
        let first = finetune(folder, &format!("adapters/{method}"), &flags);
        assert_eq!(first["method"], method);
        let further = format!("adapters/{method}-further");
        let start = format!("adapters/{method}");
        let second = finetune(folder, &further, &[&flags[..], &["--adapter", &start]].concat());
        assert!(
            loss(&second) < loss(&first) && loss(&first) < 5.0,
            "{method}: {} and {}",
            loss(&first),
            loss(&second)
        );
        let config: Value =
            serde_json::from_slice(&fs::read(folder.join(&further).join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(
            (&config["config"]["mh_adapter"], &config["model_type"]),
            (&json!(method == "houlsby"), &json!("llama"))
        );
        let weights = fs::read(folder.join(&further).join("adapter.safetensors")).unwrap();
        assert!(String::from_utf8_lossy(&weights).contains(&format!(
            "model.layers.3.{file}.adapters.rootstock.adapter_down.0.weight"
        )));
        let card = fs::read_to_string(folder.join(start).join("README.md")).unwrap();
        assert!(
            card.contains("library_name: adapters") && card.contains("| reduction_factor | 16 |"),
            "{card}"
        );
    }
    finetune(folder, "adapters/lora", &["--max-steps", "8"]);
    let names = ["houlsby", "pfeiffer", "pfeiffer-further", "lora", BASE];
    let bodies: Vec<Value> = names
        .map(|name| question(name, (3..40).collect::<Vec<u32>>(), 24))
        .into();
    let start = || {
        Server::start_on(
            &folder.join("model"),
            &["--adapters", adapters.to_str().unwrap(), "--threads", "2"],
        )
    };
    let alone = ask_alone(&start(), &bodies);
    assert_same("trained here", &ask_together(&start(), &bodies), &alone);
    let learned = alone.iter().filter(|answer| answer.ids != alone[4].ids).count();
    assert_eq!(learned, 4, "an adapter answers as the base");
}

#[test]
fn settings_of_the_other_kind_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    write_model("phi3", &scratch.path().join("model"));
    fs::write(
        scratch.path().join("rows.jsonl"),
        "{\"text\": \"one\"}\n{\"text\": \"two\"}\n",
    )
    .unwrap();
    for (flags, reason) in [
        (
            &["--reduction-factor", "8"][..],
            "--reduction-factor: is for --method houlsby and pfeiffer",
        ),
        (
            &["--method", "houlsby", "--use-dora", "true"],
            "--use-dora: is for low-rank pairs",
        ),
        (&["--method", "pfeiffer"], "not supported on a base of the family phi3"),
        (
            &["--method", "pfeiffer", "--reduction-factor", "0"],
            "--reduction-factor",
        ),
    ] {
        let mut command = Command::new(ROOTSTOCK);
        command.arg("finetune").current_dir(scratch.path());
        command.args([
            "--model",
            "model",
            "--data-name",
            "rows.jsonl",
            "--output",
            "out",
            "--eval-share",
            "0",
        ]);
        let output = command.args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{reason}: {said}");
        assert!(!scratch.path().join("out").exists());
    }
}
