//! Adapters of every kind beside each other on one tiny base: at their own scale, at half, in sums, and all in one batch.

use serde_json::{Value, json};

use crate::answers::{ask_alone, ask_together, assert_same, question};
use crate::server::{BASE, Server, fixture};
use crate::tiny::{Expected, copy_files, distance, scored, scoring, try_scored, write_model};

const KINDS: [&str; 7] = [
    "dora",
    "dora-head",
    "dora-embedding-head",
    "head-embedding-untied",
    "embedding-base-beside",
    "saved-modules",
    "tenant",
];

struct World {
    _scratch: tempfile::TempDir,
    server: Server,
}

fn world(flags: &[&str]) -> World {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapters) = (scratch.path().join("model"), scratch.path().join("adapters"));
    write_model("llama3-rope", &model);
    for kind in KINDS {
        let from = match kind {
            "tenant" => fixture("tiny/llama3-rope/adapter"),
            kind => fixture("tiny-adapters").join(kind),
        };
        copy_files(&from, &adapters.join(kind));
    }
    let flags = [&["--adapters", adapters.to_str().unwrap()], flags].concat();
    World {
        server: Server::start_on(&model, &flags),
        _scratch: scratch,
    }
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[test]
fn each_gives_peft_s_values_at_its_scale_and_at_half() {
    let world = world(&["--activations", "f32"]);
    let ids = Expected::of("llama3-rope").ids();
    for kind in KINDS.into_iter().filter(|kind| *kind != "tenant") {
        let expected = Expected::read(&fixture("tiny-adapters").join(kind).join("expected.safetensors"));
        let whole = scored(&world.server, kind, &ids);
        assert!(distance(&whole, &expected.logprobs("logits", &ids)).0 <= 1e-3, "{kind}");
        let half = with(scoring(kind, &ids), "adapter_scale", json!(0.5));
        let half = try_scored(&world.server, &half).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(
            distance(&half, &expected.logprobs("half", &ids)).0 <= 1e-3,
            "{kind} at 0.5"
        );
    }
}

#[test]
fn weighted_sums_give_the_reference_s_values() {
    let world = world(&["--activations", "f32"]);
    let ids = Expected::of("llama3-rope").ids();
    for (sum, parts) in [
        ("dora-saved", [("dora", 0.7), ("saved-modules", 0.6)]),
        ("dora-dora", [("dora", 0.5), ("dora-head", 0.8)]),
    ] {
        let expected = Expected::read(&fixture(&format!("tiny-adapters/sum-of-{sum}.safetensors")));
        let adapters = parts.map(|(name, scale)| json!({"name": name, "scale": scale}));
        let got = try_scored(&world.server, &with(scoring(BASE, &ids), "adapters", json!(adapters)));
        let got = got.unwrap_or_else(|error| panic!("{sum}: {error}"));
        let (most, _) = distance(&got, &expected.logprobs("logits", &ids));
        assert!(most <= 1e-3, "{sum} is {most} off");
    }
}

#[test]
fn none_changes_a_bit_of_another_s_answer() {
    let bodies = |salt: u32| -> Vec<Value> {
        let each = KINDS.into_iter().chain([BASE]).enumerate();
        each.flat_map(|(index, kind)| {
            let ids: Vec<u32> = (0..20 + index as u32 * 7)
                .map(|n| 3 + (n * 37 + salt + index as u32 * 11) % 250)
                .collect();
            let body = question(kind, ids, 60);
            let half = match kind {
                BASE => with(
                    body.clone(),
                    "adapters",
                    json!([{"name": "dora", "scale": 0.5}, {"name": "saved-modules", "scale": 0.5}]),
                ),
                _ => with(body.clone(), "adapter_scale", json!(0.5)),
            };
            [body, half]
        })
        .collect()
    };
    for flags in [
        &["--threads", "2"][..],
        &["--threads", "1", "--quantize", "4"],
        &["--max-batch-tokens", "24", "--quantize", "8"],
    ] {
        let alone = ask_alone(&world(flags).server, &bodies(1));
        let together = ask_together(&world(flags).server, &bodies(1));
        assert_same(&format!("{flags:?}"), &together, &alone);
        assert!(
            alone.windows(2).all(|pair| pair[0].ids != pair[1].ids),
            "{flags:?}: two kinds answer the same"
        );
    }
}
