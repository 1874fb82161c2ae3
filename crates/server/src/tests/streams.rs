//! Streams carry what whole answers do, chunk by chunk.

use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use super::counter::END;
use super::world::{Reply, World, chat, completion, world};

async fn stream(world: &World, path: &str, mut body: Value) -> Reply {
    body["stream"] = json!(true);
    let reply = world.post(path, &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/event-stream");
    reply
}

#[tokio::test]
async fn completion_chunks_add_up() {
    let world = world();
    let fields = json!({"return_token_ids": true, "logprobs": 1, "stream_options": {"include_usage": true}});
    let events = stream(&world, "/v1/completions", completion("a", fields))
        .await
        .events();
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["total_tokens"]),
        (&json!([]), &json!(4))
    );
    let texts: String = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, "bcd");
    assert_eq!(chunks[0]["choices"][0]["prompt_token_ids"], json!([97]));
    assert_eq!(chunks[0]["choices"][0]["token_ids"], json!([98]));
    assert_eq!(chunks[2]["choices"][0]["logprobs"]["text_offset"], json!([2]));
    let last = &chunks[chunks.len() - 1]["choices"][0];
    assert_eq!((&last["finish_reason"], &last["text"]), (&json!("length"), &json!("")));
    for chunk in chunks {
        assert!(chunk["usage"].is_null() && chunk.as_object().unwrap().contains_key("usage"));
        assert_eq!(
            (&chunk["id"], &chunk["object"]),
            (&usage["id"], &json!("text_completion"))
        );
    }
}

#[tokio::test]
async fn a_stream_of_several_choices_keeps_them_apart() {
    let world = world();
    let body = completion(
        json!(["a", "x", "W"]),
        json!({"max_tokens": 9, "echo": true, "stop": ["}"]}),
    );
    let events = stream(&world, "/v1/completions", body).await.events();
    let mut texts = [String::new(), String::new(), String::new()];
    let mut reasons = vec![Value::Null; 3];
    for event in &events {
        assert!(event.get("usage").is_none());
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index] += choice["text"].as_str().unwrap();
        if choice["finish_reason"].is_string() {
            assert!(reasons[index].is_null(), "two ends of one choice");
            reasons[index] = choice["finish_reason"].clone();
        }
    }
    assert_eq!(texts, ["abcdefghij", "xyz{|", "WXYZ"]);
    assert_eq!(reasons, ["length", "stop", "stop"]);
}

#[tokio::test]
async fn no_chunk_holds_half_a_character() {
    let world = world();
    let events = stream(&world, "/v1/completions", completion("#", json!({"max_tokens": 5})))
        .await
        .events();
    let texts: Vec<&str> = events
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["🦀", "!", ""]);
    let cut = stream(&world, "/v1/completions", completion("#", json!({"max_tokens": 2})))
        .await
        .events();
    assert_eq!(cut.last().unwrap()["choices"][0]["text"], "\u{FFFD}");
}

#[tokio::test]
async fn chat_chunks_begin_with_the_role() {
    let world = world();
    let fields = json!({"n": 2, "return_token_ids": true, "logprobs": true, "stream_options": {"include_usage": true}});
    let events = stream(&world, "/v1/chat/completions", chat("hi", fields))
        .await
        .events();
    for (index, event) in events[..2].iter().enumerate() {
        let choice = &event["choices"][0];
        assert_eq!(choice["index"], index);
        assert_eq!(choice["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(choice["prompt_token_ids"], event["prompt_token_ids"]);
        assert_eq!(event["object"], "chat.completion.chunk");
    }
    let of_first = events
        .iter()
        .map(|event| &event["choices"][0])
        .filter(|choice| choice["index"] == 0);
    let chunks: Vec<&Value> = of_first.skip(1).collect();
    let text: String = chunks
        .iter()
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "BCD");
    assert_eq!(chunks[0]["token_ids"], json!([66]));
    assert_eq!(chunks[0]["logprobs"]["content"][0]["token"], "B");
    assert_eq!(chunks.last().unwrap()["finish_reason"], "length");
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn tokens_without_text_make_no_chunk_unless_asked_for() {
    let world = world();
    let body = |fields: Value| {
        let mut body = completion("Y", json!({"max_tokens": 3, "ignore_eos": true}));
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        body
    };
    let texts =
        |events: &[Value]| -> Vec<Value> { events.iter().map(|event| event["choices"][0]["text"].clone()).collect() };
    let events = stream(&world, "/v1/completions", body(json!({}))).await.events();
    assert_eq!(texts(&events), ["Z", "a", ""]);
    let events = stream(&world, "/v1/completions", body(json!({"return_token_ids": true})))
        .await
        .events();
    assert_eq!(texts(&events), ["Z", "", "a", ""]);
    assert_eq!(events[1]["choices"][0]["token_ids"], json!([END]));
}

#[tokio::test]
async fn a_fault_half_way_is_an_error_event() {
    let world = world();
    let fields = json!({"max_tokens": 3, "logit_bias": {"33": 100}});
    let reply = stream(&world, "/v1/chat/completions", chat("!!", json!({}))).await;
    let last = reply.events().pop().unwrap();
    assert_eq!(last["error"]["code"], "engine_error");
    let reply = world.post("/v1/completions", &completion("!!", fields)).await;
    assert_eq!(reply.error(), (500, "engine_error".to_owned(), Value::Null));
    assert_eq!(world.complete("a", json!({})).await["choices"][0]["text"], "bcd");
}
