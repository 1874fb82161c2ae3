//! Another base under live adapters, by the admin call and by restart: adapters are checked against it, misfits are reported,
//! and nothing serves half.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answers::{ask, assert_same, question};
use crate::http::Reply;
use crate::server::{BASE, Server, fixture};
use crate::tiny::{Expected, copy_files, distance, scored, scoring, try_scored, write_model};

/// Two bases, `before` and `after` (a fused phi3), one adapter that fits both and one that fits only the first.
struct World {
    scratch: TempDir,
}

const FITS_BOTH: &str = "fits-both";
const MISFIT: &str = "misfit";

fn world() -> World {
    let scratch = tempfile::tempdir().unwrap();
    write_model("llama3-rope", &scratch.path().join("models/before"));
    write_model("phi3", &scratch.path().join("models/after"));
    let adapters = scratch.path().join("adapters");
    copy_files(&fixture("tiny-adapters/dora-head"), &adapters.join(FITS_BOTH));
    copy_files(&fixture("tiny/llama3-rope/adapter"), &adapters.join(MISFIT));
    World { scratch }
}

impl World {
    fn model(&self, name: &str) -> PathBuf {
        self.scratch.path().join("models").join(name)
    }

    fn serve(&self, name: &str) -> Server {
        let adapters = self.scratch.path().join("adapters");
        let flags = ["--adapters", adapters.to_str().unwrap(), "--activations", "f32"];
        Server::start_on(&self.model(name), &flags)
    }
}

fn replace(server: &Server, model: &Path, fields: Value) -> Reply {
    let mut body = json!({"model": model});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    server.post("/v1/replace_base_model", &body)
}

fn ids() -> Vec<u32> {
    Expected::of("llama3-rope").ids()
}

/// That the server serves `arch` and the adapter that fits it, and nothing of the one that does not.
fn assert_serves_after(server: &Server, reference: &Server) {
    let (expected, ids) = (Expected::of("phi3"), ids());
    let base = scored(server, BASE, &ids);
    let (most, _) = distance(&base, &expected.logprobs("logits", &ids));
    assert!(most <= 1e-3, "the new base is {most} off");
    let adapted = scored(server, FITS_BOTH, &ids);
    assert!(distance(&adapted, &base).0 > 0.1);
    assert_eq!(
        adapted,
        scored(reference, FITS_BOTH, &ids),
        "as after a start on the new base"
    );
    let error = try_scored(server, &scoring(MISFIT, &ids)).unwrap_err();
    assert!(error.starts_with("HTTP 4"), "{error}");
    let served = server.get("/v1/models").json();
    let served: Vec<&str> = served["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert!(served.contains(&FITS_BOTH) && !served.contains(&MISFIT), "{served:?}");
}

#[test]
fn the_admin_call_replaces_it_and_reports_misfits() {
    let world = world();
    let server = world.serve("before");
    let before = scored(&server, MISFIT, &ids());
    let expected = Expected::of("llama3-rope").logprobs("adapter_logits", &ids());
    assert!(distance(&before, &expected).0 <= 1e-3);

    let reply = replace(&server, &world.model("after"), json!({}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(
        reply.text.contains(MISFIT) && !reply.text.contains(FITS_BOTH),
        "{}",
        reply.text
    );
    let misfits = reply.json()["misfits"].clone();
    assert_eq!(misfits.as_array().map(Vec::len), Some(1), "{}", reply.text);
    assert!(reply.text.contains("adapter_unmapped_tensor"), "{}", reply.text);
    assert_serves_after(&server, &world.serve("after"));

    // And back: the adapter that did not fit is served again.
    let reply = replace(&server, &world.model("before"), json!({}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["misfits"], json!([]));
    assert_eq!(scored(&server, MISFIT, &ids()), before);
}

#[test]
fn a_restart_on_another_base_serves_what_fits_it() {
    let world = world();
    drop(world.serve("before"));
    let server = world.serve("after");
    assert_serves_after(&server, &world.serve("after"));
    assert!(server.log().contains(MISFIT), "{}", server.log());
}

#[test]
fn what_fails_changes_nothing() {
    let world = world();
    let server = world.serve("before");
    let models = [BASE, FITS_BOTH, MISFIT];
    let before = models.map(|model| scored(&server, model, &ids()));
    let list = server.get("/v1/models").json();
    let broken = world.model("broken");
    copy_files(&world.model("after"), &broken);
    std::fs::write(broken.join("model.safetensors"), b"not a tensor in it").unwrap();
    let attempts = [
        (world.model("after"), json!({"require_all_adapters": true})),
        (broken, json!({})),
        (world.model("nowhere"), json!({})),
        (world.model("after"), json!({"quantize": "7"})),
    ];
    for (model, fields) in attempts {
        let reply = replace(&server, &model, fields.clone());
        assert!((400..500).contains(&reply.status), "{fields}: {}", reply.text);
        assert!(!reply.code().is_empty(), "{fields}: {}", reply.text);
        assert_eq!(models.map(|model| scored(&server, model, &ids())), before, "{fields}");
        assert_eq!(server.get("/v1/models").json(), list, "{fields}");
    }
}

#[test]
fn what_began_on_the_old_base_ends_on_it() {
    let world = world();
    let server = world.serve("before");
    let body = question(MISFIT, ids(), 440);
    let alone = ask(&server, &body);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let mut events = server.stream("/v1/completions", &streamed);
    let first = events.next().unwrap().unwrap();
    assert_eq!(replace(&server, &world.model("after"), json!({})).status, 200);
    assert!(try_scored(&server, &scoring(MISFIT, &ids())).is_err());
    let chunks = std::iter::once(first).chain(events.map(|event| event.expect("the stream goes on")));
    let tokens: Vec<Value> = chunks
        .flat_map(|chunk| chunk["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(json!(tokens), json!(alone.ids));
    // A question to the new base is answered as on a new server.
    let body = question(FITS_BOTH, ids(), 40);
    let fresh = ask(&world.serve("after"), &body);
    assert_same("after the replacement", &[ask(&server, &body)], &[fresh]);
}
