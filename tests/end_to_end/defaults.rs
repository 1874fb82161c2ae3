//! rootstock.toml in an adapter's folder: what its requests get where they say nothing themselves.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::server::{BASE, Server, fixture};
use crate::tiny::{copy_files, write_model};

fn write_adapter(dir: &Path, defaults: &str) {
    copy_files(&fixture("tiny/llama3-rope/adapter"), dir);
    fs::write(dir.join("rootstock.toml"), defaults).unwrap();
}

fn choice(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["choices"][0].clone()
}

fn completion(server: &Server, fields: Value) -> Value {
    let mut body = json!({"prompt": [5, 6, 7, 8], "return_token_ids": true, "ignore_eos": true});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    choice(server, "/v1/completions", &body)
}

/// Prompt ids of a chat.
fn prompt(server: &Server, model: &str, messages: Value) -> Value {
    let body = json!({"model": model, "messages": messages, "max_tokens": 1, "return_token_ids": true});
    choice(server, "/v1/chat/completions", &body)["prompt_token_ids"].clone()
}

fn tokens(server: &Server, text: &str) -> Value {
    server.post("/tokenize", &json!({"model": BASE, "prompt": text})).json()["tokens"].clone()
}

#[test]
fn they_hold_where_a_request_says_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapters) = (scratch.path().join("model"), scratch.path().join("adapters"));
    write_model("llama3-rope", &model);
    write_adapter(
        &adapters.join("tenant"),
        "system_prompt = \"Be brief.\"\n[sampling]\nmax_tokens = 3\ntemperature = 1.5\nseed = 11\n",
    );
    write_adapter(
        &adapters.join("styled"),
        "chat_template = \"{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}\"\n",
    );
    let server = Server::start_on(&model, &["--adapters", adapters.to_str().unwrap()]);

    let count = |choice: &Value| choice["token_ids"].as_array().unwrap().len();
    let by_default = completion(&server, json!({"model": "tenant"}));
    assert_eq!(count(&by_default), 3);
    let said = json!({"model": "tenant", "max_tokens": 3, "temperature": 1.5, "seed": 11});
    assert_eq!(by_default["token_ids"], completion(&server, said)["token_ids"]);
    // What the request says wins, and the base has none of it.
    assert_eq!(
        count(&completion(&server, json!({"model": "tenant", "max_tokens": 7}))),
        7
    );
    let greedy = completion(&server, json!({"model": "tenant", "temperature": 0, "max_tokens": 16}));
    let drawn = completion(&server, json!({"model": "tenant", "max_tokens": 16}));
    assert_ne!(greedy["token_ids"], drawn["token_ids"]);
    assert_eq!(count(&completion(&server, json!({"model": BASE, "max_tokens": 5}))), 5);

    let user = json!({"role": "user", "content": "hi"});
    let with = |system: &str| json!([{"role": "system", "content": system}, user]);
    let brief = "<s>system: Be brief.</s><s>user: hi</s><s>assistant: ";
    assert_eq!(prompt(&server, "tenant", json!([user])), tokens(&server, brief));
    let own = "<s>system: Sing.</s><s>user: hi</s><s>assistant: ";
    assert_eq!(prompt(&server, "tenant", with("Sing.")), tokens(&server, own));
    assert_eq!(
        prompt(&server, BASE, json!([user])),
        tokens(&server, "<s>user: hi</s><s>assistant: ")
    );
    assert_eq!(prompt(&server, "styled", json!([user])), tokens(&server, "[user]hi"));
}

#[test]
fn a_file_that_is_not_understood_refuses_the_adapter_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let (model, adapters) = (scratch.path().join("model"), scratch.path().join("adapters"));
    write_model("llama3-rope", &model);
    fs::create_dir(&adapters).unwrap();
    let server = Server::start_on(&model, &["--adapter-root", adapters.to_str().unwrap()]);
    for (index, (defaults, mentions)) in [
        ("sistem_prompt = \"x\"", "sistem_prompt"),
        ("[sampling]\ntemprature = 1.0", "temprature"),
        ("[sampling]\ntemperature = 9.0", "temperature"),
        ("[sampling]\nmax_tokens = \"many\"", "max_tokens"),
        ("chat_template = \"{% for %}\"", "rootstock.toml"),
        ("= =", "rootstock.toml"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = adapters.join(index.to_string());
        write_adapter(&dir, defaults);
        let reply = server.post(
            "/v1/load_lora_adapter",
            &json!({"lora_name": "tenant", "lora_path": dir}),
        );
        assert!((400..500).contains(&reply.status), "{defaults}: {}", reply.text);
        assert!(reply.code().starts_with("adapter_"), "{defaults}: {}", reply.text);
        assert!(reply.text.contains(mentions), "{defaults}: {}", reply.text);
    }
    server.assert_alive();
}
