//! What `/v1/chat/completions` answers, and how conversations become prompts.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::world::{Setup, World, chat, world};

const CHAT: &str = "/v1/chat/completions";

async fn ask(world: &World, body: &Value) -> Value {
    let reply = world.post(CHAT, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

/// The text that a conversation is rendered to.
async fn rendered(world: &World, body: &Value) -> String {
    let mut body = body.clone();
    body["return_token_ids"] = json!(true);
    let answer = ask(world, &body).await;
    let ids = &answer["choices"][0]["prompt_token_ids"];
    assert_eq!(*ids, answer["prompt_token_ids"]);
    let text = world.post("/detokenize", &json!({"tokens": ids})).await.json();
    text["prompt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let world = world();
    let answer = ask(&world, &chat("hi", json!({}))).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    let choice = json!({
        "index": 0, "message": {"role": "assistant", "content": "BCD", "refusal": null},
        "logprobs": null, "finish_reason": "length", "stop_reason": null,
    });
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert!(answer.get("prompt_token_ids").is_none());
}

#[tokio::test]
async fn without_a_limit_the_answer_runs_to_its_end() {
    let world = world();
    let answer = ask(&world, &chat("hi", json!({"max_tokens": null}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "BCDEFGHIJKLMNOPQRSTUVWXYZ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let answer = ask(&world, &chat("hi", json!({"max_tokens": null, "ignore_eos": true}))).await;
    assert_eq!(answer["usage"]["total_tokens"], 512);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn logprobs_have_chats_shape() {
    let world = world();
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 1});
    let answer = ask(&world, &chat("hi", fields)).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 1);
    let token = &content[0];
    assert_eq!((&token["token"], &token["bytes"]), (&json!("B"), &json!([66])));
    assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
    assert_eq!(token["top_logprobs"][1]["token"], "C");
    let answer = ask(&world, &chat("hi", json!({"logprobs": true, "max_tokens": 1}))).await;
    assert_eq!(
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
        json!([])
    );
}

#[tokio::test]
async fn conversations_are_rendered_by_the_template() {
    let world = world();
    assert_eq!(
        rendered(&world, &chat("hi", json!({}))).await,
        "<|turn|>user:hi\n<|turn|>A"
    );
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    assert_eq!(
        rendered(&world, &chat(parts, json!({}))).await,
        "<|turn|>user:one\ntwo\n<|turn|>A"
    );
    let closed = chat("hi", json!({"add_generation_prompt": false}));
    assert_eq!(rendered(&world, &closed).await, "<|turn|>user:hi\n");
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": " I am "}]);
    let open = chat("", json!({"messages": messages, "continue_final_message": true}));
    assert_eq!(
        rendered(&world, &open).await,
        "<|turn|>user:hi\n<|turn|>assistant: I am "
    );
}

#[tokio::test]
async fn tools_go_to_a_template_that_shows_them() {
    let world = World::new(Setup::with_tools());
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let with = rendered(&world, &chat("hi", json!({"tools": tools, "tool_choice": "auto"}))).await;
    assert!(with.ends_with("hi") && with.contains("\"name\""), "{with}");
    let without = rendered(&world, &chat("hi", json!({"tools": tools, "tool_choice": "none"}))).await;
    assert_eq!(without, "hi");
    let forced = world
        .post(CHAT, &chat("hi", json!({"tools": tools, "tool_choice": "required"})))
        .await;
    assert_eq!(
        forced.error(),
        (400, "unsupported_parameter".to_owned(), json!("tool_choice"))
    );
    let blind = super::world::world();
    let refused = blind.post(CHAT, &chat("hi", json!({"tools": tools}))).await;
    assert_eq!(
        refused.error(),
        (400, "unsupported_parameter".to_owned(), json!("tools"))
    );
}

#[tokio::test]
async fn without_a_template_chat_is_refused() {
    let setup = Setup {
        template: None,
        ..Setup::default()
    };
    let reply = World::new(setup).post(CHAT, &chat("hi", json!({}))).await;
    assert_eq!(reply.error(), (400, "no_chat_template".to_owned(), Value::Null));
    let setup = Setup {
        template: Some("{{ raise_exception('roles must alternate') }}"),
        ..Setup::default()
    };
    let reply = World::new(setup).post(CHAT, &chat("hi", json!({}))).await;
    assert_eq!(
        reply.error(),
        (400, "chat_template_error".to_owned(), json!("messages"))
    );
    assert!(reply.text.contains("roles must alternate"));
}

#[tokio::test]
async fn tokenize_takes_text_and_messages() {
    let world = world();
    let reply = world
        .post("/tokenize", &json!({"prompt": "hi", "return_token_strs": true}))
        .await;
    let expected = json!({"count": 2, "max_model_len": 512, "tokens": [104, 105], "token_strs": ["h", "i"]});
    assert_eq!(reply.json(), expected);
    let messages = chat("hi", json!({}))["messages"].clone();
    let reply = world
        .post("/tokenize", &json!({"model": "base", "messages": messages}))
        .await;
    assert_eq!(reply.json()["count"], 11);
    let reply = world
        .post("/tokenize", &json!({"model": "nobody", "prompt": "hi"}))
        .await;
    assert_eq!(reply.error(), (404, "model_not_found".to_owned(), json!("model")));
    let reply = world.post("/detokenize", &json!({"tokens": [258]})).await;
    assert_eq!(reply.error(), (400, "invalid_value".to_owned(), json!("tokens")));
}
