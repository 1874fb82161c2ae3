//! The prefix cache is keyed by what was computed: tokens, the adapter's content and its scale, never its name.

use serde_json::{Value, json};

use crate::adapter_files::AdapterFiles;
use crate::answers::{Answer, answer_of, ask, assert_same, cached_tokens, prompt_ids, question, respond};
use crate::server::{BASE, Server};

/// A folder of adapters: `one` and `two` differ, `twin` is `one` under another name.
fn adapters() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = AdapterFiles::fixture("r1-down-late-layers");
    for (name, seed) in [("one", 1), ("two", 2), ("twin", 1), ("three", 3)] {
        fixture.variant(seed).write(&dir.path().join(name));
    }
    dir
}

fn served(dir: &tempfile::TempDir) -> Server {
    Server::start(&["--adapter-root", dir.path().to_str().unwrap()])
}

fn load(server: &Server, name: &str, folder: &std::path::Path, inplace: bool) {
    let body = json!({"lora_name": name, "lora_path": folder, "load_inplace": inplace});
    let reply = server.post("/v1/load_lora_adapter", &body);
    assert_eq!(reply.status, 200, "{}", reply.text);
}

fn asked(server: &Server, body: &Value) -> (Answer, u64) {
    let response = respond(server, body);
    (answer_of(&response), cached_tokens(&response))
}

fn long_question(model: &str) -> Value {
    question(model, prompt_ids(5, 100), 12)
}

#[test]
fn a_prefix_is_reused_for_equal_content_and_never_for_another() {
    let dir = adapters();
    let cold = |folder: &str| {
        let server = served(&dir);
        load(&server, "cold", &dir.path().join(folder), false);
        ask(&server, &long_question("cold"))
    };
    let (one, two) = (cold("one"), cold("two"));
    assert_ne!(one, two);

    let server = served(&dir);
    load(&server, "tenant", &dir.path().join("one"), false);
    load(&server, "other", &dir.path().join("two"), false);
    let (base, hits) = asked(&server, &long_question(BASE));
    assert_eq!(hits, 0, "a new server had a prefix");
    let (again, hits) = asked(&server, &long_question(BASE));
    assert!(hits >= 64, "the same prompt hit only {hits} tokens");
    assert_same("a hit on the base", &[again], &[base]);

    let (first, hits) = asked(&server, &long_question("tenant"));
    assert_eq!(hits, 0, "an adapter shared a prefix with the base");
    assert_same("an adapter after the base", &[first], std::slice::from_ref(&one));
    let (first, hits) = asked(&server, &long_question("other"));
    assert_eq!(hits, 0, "two adapters shared a prefix");
    assert_same("an adapter after another", &[first], std::slice::from_ref(&two));
    let (again, hits) = asked(&server, &long_question("tenant"));
    assert!(
        hits >= 64,
        "the same prompt under the same adapter hit only {hits} tokens"
    );
    assert_same("a hit under an adapter", &[again], std::slice::from_ref(&one));
}

#[test]
fn a_replaced_adapter_of_the_same_name_starts_cold() {
    let dir = adapters();
    let server = served(&dir);
    load(&server, "tenant", &dir.path().join("one"), false);
    load(&server, "reference", &dir.path().join("three"), false);
    let (before, _) = asked(&server, &long_question("tenant"));
    load(&server, "tenant", &dir.path().join("two"), true);
    let (after, hits) = asked(&server, &long_question("tenant"));
    assert_eq!(hits, 0, "a replaced adapter found its predecessor's prefix");
    assert_ne!(before, after);
    load(&server, "tenant", &dir.path().join("one"), true);
    let (restored, _) = asked(&server, &long_question("tenant"));
    assert_same("the first content is back", &[restored], &[before]);
}

#[test]
fn equal_content_under_another_name_shares_and_another_scale_does_not() {
    let dir = adapters();
    let server = served(&dir);
    load(&server, "one", &dir.path().join("one"), false);
    load(&server, "twin", &dir.path().join("twin"), false);
    let (one, _) = asked(&server, &long_question("one"));
    let (twin, hits) = asked(&server, &long_question("twin"));
    assert!(hits >= 64, "equal content hit only {hits} tokens");
    assert_same("equal content", &[twin], std::slice::from_ref(&one));
    let mut half = long_question("one");
    half["adapter_scale"] = json!(0.5);
    let (half, hits) = asked(&server, &half);
    assert_eq!(hits, 0, "another scale found the prefix");
    assert_ne!(half, one);
}
