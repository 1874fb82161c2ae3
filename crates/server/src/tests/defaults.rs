//! What an adapter's rootstock.toml gives to requests that say nothing themselves.

use std::fs;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::counter::write_adapter;
use super::world::{BASE, World, chat, completion, world};

const DEFAULTS: &str = r#"
system_prompt = "be brief"
chat_template = "{% for message in messages %}[{{ message.role }}|{{ message.content }}]{% endfor %}{% if add_generation_prompt %}>A{% endif %}"

[sampling]
max_tokens = 5
stop = ["E"]
temperature = 0
"#;

/// A world with the adapter `tenant`, which has those defaults, and `plain`, which has none.
async fn with_defaults() -> World {
    let world = world();
    let folder = world.roots.path().join("tenant");
    write_adapter(&folder, 1.0);
    fs::write(folder.join("rootstock.toml"), DEFAULTS).unwrap();
    let loaded = world.load("tenant").await;
    assert_eq!(loaded.status, StatusCode::OK, "{}", loaded.text);
    assert_eq!(world.load("plain").await.status, StatusCode::OK);
    world
}

/// The prompt that messages become.
async fn prompt(world: &World, model: &str, messages: Value) -> String {
    let body = json!({"model": model, "messages": messages});
    let tokens = world.post("/tokenize", &body).await.json()["tokens"].clone();
    let body = json!({"model": model, "tokens": tokens});
    world.post("/detokenize", &body).await.json()["prompt"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn template_and_system_prompt_are_the_adapters() {
    let world = with_defaults().await;
    let question = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(
        prompt(&world, "tenant", question.clone()).await,
        "[system|be brief][user|hi]>A"
    );
    assert_eq!(
        prompt(&world, "plain", question.clone()).await,
        "<|turn|>user:hi\n<|turn|>A"
    );
    assert_eq!(prompt(&world, BASE, question).await, "<|turn|>user:hi\n<|turn|>A");
    let with_system = json!([{"role": "system", "content": "ramble"}, {"role": "user", "content": "hi"}]);
    assert_eq!(
        prompt(&world, "tenant", with_system).await,
        "[system|ramble][user|hi]>A"
    );
}

#[tokio::test]
async fn a_chat_uses_them_and_the_request_wins() {
    let world = with_defaults().await;
    let ask = async |fields: Value| {
        let mut body = json!({"model": "tenant", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let reply = world.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()
    };
    // After `A` comes every second letter: C, then E, which stops it.
    let answer = ask(json!({})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "C");
    assert_eq!(answer["usage"]["prompt_tokens"], "[system|be brief][user|hi]>A".len());
    let answer = ask(json!({"stop": []})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "CEGIK");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let answer = ask(json!({"stop": "I", "max_tokens": 9})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "CEG");
    // Null is as good as absent.
    let answer = ask(json!({"stop": null, "max_tokens": null})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "C");
}

#[tokio::test]
async fn completions_take_the_sampling_alone() {
    let world = with_defaults().await;
    let ask = async |body: Value| world.post("/v1/completions", &body).await.json()["choices"][0]["text"].clone();
    assert_eq!(ask(json!({"model": "tenant", "prompt": "a"})).await, "cegik");
    assert_eq!(ask(json!({"model": "tenant", "prompt": "A"})).await, "C");
    let summand = json!({"model": BASE, "prompt": "A", "adapters": [{"name": "tenant"}]});
    assert_eq!(ask(summand).await, "C", "the only adapter of a sum");
}

#[tokio::test]
async fn a_sum_of_adapters_has_no_defaults() {
    let world = with_defaults().await;
    let sum = json!([{"name": "tenant"}, {"name": "plain"}]);
    let text = world.complete("A", json!({"adapters": sum, "max_tokens": 4})).await["choices"][0]["text"].clone();
    assert_eq!(text, "DGJM");
    let body = chat("hi", json!({"adapters": sum, "max_tokens": 1}));
    let answer = world.post("/v1/chat/completions", &body).await.json();
    assert_eq!(answer["usage"]["prompt_tokens"], 1 + "user:hi\n".len() + 1 + "A".len());
}

#[tokio::test]
async fn the_model_list_tells_what_is_set() {
    let world = with_defaults().await;
    let card = world.get("/v1/models/tenant").await.json();
    let expected = json!(["system_prompt", "chat_template", "temperature", "max_tokens", "stop"]);
    assert_eq!(card["defaults"], expected);
    assert_eq!(world.get("/v1/models/plain").await.json().get("defaults"), None);
}

#[tokio::test]
async fn changed_defaults_are_a_new_generation() {
    let world = with_defaults().await;
    let toml = DEFAULTS
        .replace("max_tokens = 5", "max_tokens = 2")
        .replace("be brief", "be kind");
    fs::write(world.roots.path().join("tenant/rootstock.toml"), toml).unwrap();
    let body = json!({"lora_name": "tenant", "lora_path": "tenant", "load_inplace": true});
    assert_eq!(world.post("/v1/load_lora_adapter", &body).await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/models/tenant").await.json()["generation"], 2);
    let question = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(prompt(&world, "tenant", question).await, "[system|be kind][user|hi]>A");
    let request = json!({"model": "tenant", "prompt": "a"});
    let answer = world.post("/v1/completions", &request).await.json();
    assert_eq!(answer["choices"][0]["text"], "ce");
    let request = completion("a", json!({"model": "tenant", "max_tokens": 4}));
    assert_eq!(
        world.post("/v1/completions", &request).await.json()["choices"][0]["text"],
        "cegi"
    );
}
