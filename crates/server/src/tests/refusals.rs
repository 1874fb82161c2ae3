//! Everything that is refused: each with its status, its code, and the field it is about.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::world::{BODY_LIMIT, Reply, Setup, World, chat, completion, post, world};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn many_biases(count: usize) -> Value {
    (0..count).map(|id| (id.to_string(), json!(1))).collect()
}

#[tokio::test]
async fn values_of_wrong_type_or_range_are_refused_by_name() {
    let world = world();
    let cases = [
        ("model", "invalid_type", vec![json!(5), json!(["base"])]),
        (
            "prompt",
            "invalid_type",
            vec![json!(5), json!({"text": "x"}), json!([1, "x"]), json!([1.5])],
        ),
        (
            "prompt",
            "invalid_value",
            vec![
                json!([]),
                json!(""),
                json!([[]]),
                json!(["x", ""]),
                json!([-1]),
                json!([258]),
            ],
        ),
        (
            "prompt",
            "invalid_value",
            vec![json!([4_294_967_297u64]), json!([u64::MAX]), json!(vec!["x"; 9])],
        ),
        ("prompt[1]", "invalid_type", vec![json!(["a", 1]), json!(["a", null])]),
        ("prompt[0]", "invalid_type", vec![json!([["a"]])]),
        ("max_tokens", "invalid_value", vec![json!(-1), json!(0)]),
        (
            "max_tokens",
            "invalid_type",
            vec![json!("ten"), json!(1.5), json!([1]), json!(true)],
        ),
        ("max_completion_tokens", "invalid_value", vec![json!(0)]),
        (
            "temperature",
            "invalid_value",
            vec![json!(-0.1), json!(2.1), json!(1e300)],
        ),
        ("temperature", "invalid_type", vec![json!("hot")]),
        ("top_p", "invalid_value", vec![json!(0), json!(-0.1), json!(1.1)]),
        ("top_k", "invalid_value", vec![json!(-2)]),
        ("min_p", "invalid_value", vec![json!(-0.1), json!(1.1)]),
        ("n", "invalid_value", vec![json!(0), json!(9), json!(-1)]),
        ("stop", "invalid_type", vec![json!(5), json!([5]), json!({"a": 1})]),
        (
            "stop",
            "invalid_value",
            vec![
                json!(""),
                json!(["a", ""]),
                json!(vec!["a"; 17]),
                json!("x".repeat(1025)),
            ],
        ),
        (
            "stop_token_ids",
            "invalid_value",
            vec![json!([258]), json!(vec![5; 1025])],
        ),
        ("seed", "invalid_type", vec![json!("seed"), json!(0.5)]),
        ("logit_bias", "invalid_type", vec![json!(5), json!({"5": "much"})]),
        (
            "logit_bias",
            "invalid_value",
            vec![json!({"x": 1}), json!({"258": 1}), json!({"5": 101}), json!({"-1": 1})],
        ),
        (
            "logit_bias",
            "invalid_value",
            vec![json!({"+5": 1}), json!({"05": 1}), many_biases(1025)],
        ),
        ("presence_penalty", "invalid_value", vec![json!(-2.1), json!(2.1)]),
        ("frequency_penalty", "invalid_value", vec![json!(-2.1), json!(2.1)]),
        ("repetition_penalty", "invalid_value", vec![json!(0), json!(-1)]),
        ("logprobs", "invalid_value", vec![json!(-1), json!(21)]),
        ("logprobs", "invalid_type", vec![json!(true)]),
        ("echo", "invalid_type", vec![json!("yes")]),
        ("stream", "invalid_type", vec![json!(1)]),
        ("stream_options", "invalid_value", vec![json!({"include_usage": true})]),
        ("user", "invalid_type", vec![json!(5)]),
        ("best_of", "unsupported_parameter", vec![json!(2)]),
        ("suffix", "unsupported_parameter", vec![json!("x")]),
        (
            "response_format",
            "unsupported_parameter",
            vec![json!({"type": "json_object"}), json!({})],
        ),
        ("guided_json", "unsupported_parameter", vec![json!({"type": "object"})]),
        ("use_beam_search", "unsupported_parameter", vec![json!(true)]),
        ("min_tokens", "unsupported_parameter", vec![json!(4)]),
        ("adapter_scale", "invalid_type", vec![json!("half"), json!([1])]),
        ("adapter_scale", "invalid_value", vec![json!(0.5), json!(1e39)]),
        ("adapters", "invalid_type", vec![json!("a")]),
        ("adapters[0]", "invalid_type", vec![json!(["a"])]),
        ("adapters[0]", "invalid_value", vec![json!([{"scale": 1}])]),
        ("adapters[0].name", "invalid_type", vec![json!([{"name": 5}])]),
        (
            "adapters[0].scale",
            "invalid_type",
            vec![json!([{"name": "a", "scale": "x"}])],
        ),
        (
            "adapters[0].weight",
            "unsupported_parameter",
            vec![json!([{"name": "a", "weight": 1}])],
        ),
    ];
    for (param, code, values) in cases {
        let field = param.split('[').next().unwrap();
        for value in values {
            let reply = world.post(COMPLETIONS, &completion("a", json!({field: value}))).await;
            assert_eq!(
                reply.error(),
                (400, code.to_owned(), json!(param)),
                "{value}: {}",
                reply.text
            );
        }
    }
}

#[tokio::test]
async fn chat_refuses_what_is_wrong_with_messages() {
    let world = world();
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    let cases = [
        ("messages", "invalid_type", json!("hi")),
        ("messages", "invalid_value", json!([])),
        ("messages[0]", "invalid_type", json!(["hi"])),
        ("messages[0]", "invalid_value", json!([{"content": "hi"}])),
        ("messages[0]", "invalid_value", json!([{"role": "user"}])),
        ("messages[0]", "invalid_value", user(Value::Null)),
        (
            "messages[0].role",
            "invalid_type",
            json!([{"role": 5, "content": "hi"}]),
        ),
        ("messages[0].content", "invalid_type", user(json!(5))),
        ("messages[0].content", "invalid_type", user(json!(["hi"]))),
        ("messages[0].content", "unsupported_parameter", user(image)),
    ];
    for (param, code, messages) in cases {
        let reply = world.post(CHAT, &chat("", json!({"messages": messages}))).await;
        assert_eq!(reply.error(), (400, code.to_owned(), json!(param)), "{}", reply.text);
    }
    let fields = [
        ("max_tokens", "invalid_value", json!({"max_tokens": 0})),
        (
            "max_completion_tokens",
            "invalid_value",
            json!({"max_completion_tokens": 0}),
        ),
        ("top_logprobs", "invalid_value", json!({"top_logprobs": 2})),
        (
            "top_logprobs",
            "invalid_value",
            json!({"logprobs": true, "top_logprobs": 21}),
        ),
        ("logprobs", "invalid_type", json!({"logprobs": 3})),
        ("echo", "unsupported_parameter", json!({"echo": true})),
        (
            "functions",
            "unsupported_parameter",
            json!({"functions": [{"name": "f"}]}),
        ),
        (
            "modalities",
            "unsupported_parameter",
            json!({"modalities": ["text", "audio"]}),
        ),
        (
            "continue_final_message",
            "invalid_value",
            json!({"continue_final_message": true, "add_generation_prompt": true}),
        ),
    ];
    for (param, code, fields) in fields {
        let reply = world.post(CHAT, &chat("hi", fields)).await;
        assert_eq!(reply.error(), (400, code.to_owned(), json!(param)), "{}", reply.text);
    }
}

#[tokio::test]
async fn neutral_values_and_unknown_fields_are_accepted() {
    let world = world();
    let fields = json!({
        "suffix": null, "best_of": 1, "guided_json": null, "use_beam_search": false, "min_tokens": 0,
        "response_format": {"type": "text"}, "user": "u", "top_k": -1, "store": true, "metadata": {"a": "b"},
        "stop": null, "stop_token_ids": [], "logit_bias": {}, "adapters": [], "service_tier": "auto",
    });
    assert_eq!(world.complete("a", fields).await["choices"][0]["text"], "bcd");
}

#[tokio::test]
async fn missing_fields_are_named() {
    let world = world();
    for (path, body, param) in [
        (COMPLETIONS, json!({"prompt": "a"}), "model"),
        (COMPLETIONS, json!({"model": null, "prompt": "a"}), "model"),
        (COMPLETIONS, json!({"model": "base"}), "prompt"),
        (CHAT, json!({"model": "base"}), "messages"),
        ("/tokenize", json!({}), "messages"),
        ("/detokenize", json!({}), "tokens"),
        ("/v1/load_lora_adapter", json!({"lora_name": "a"}), "lora_path"),
        (
            "/v1/load_lora_adapter",
            json!({"lora_name": "", "lora_path": "a"}),
            "lora_name",
        ),
        ("/v1/unload_lora_adapter", json!({}), "lora_name"),
    ] {
        let reply = world.post(path, &body).await;
        let expected = (400, "missing_required_parameter".to_owned(), json!(param));
        assert_eq!(reply.error(), expected, "{}", reply.text);
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_everywhere() {
    let world = world();
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let bodies: [(&str, &[u8]); 9] = [
        ("invalid_json", b""),
        ("invalid_json", b"hello"),
        ("invalid_json", b"{\"model\": \"base\", \"prompt\": \"x"),
        ("invalid_json", b"[]"),
        ("invalid_json", b"null"),
        ("invalid_json", b"{} x"),
        ("invalid_json", b"{\"prompt\": \"\\ud800\"}"),
        ("invalid_json", b"{\"model\": \"base\", \"model\": \"base\"}"),
        ("invalid_utf8", b"{\"prompt\": \"\xff\xfe\"}"),
    ];
    for path in [
        COMPLETIONS,
        CHAT,
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/tokenize",
        "/detokenize",
    ] {
        for (code, body) in bodies {
            let reply = world.post_bytes(path, body.to_vec()).await;
            assert_eq!(reply.error(), (400, code.to_owned(), Value::Null), "{path}: {body:?}");
        }
        let reply = world.post_bytes(path, deep.clone()).await;
        assert_eq!(reply.error(), (400, "invalid_json".to_owned(), Value::Null), "{path}");
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_at_any_size() {
    let world = world();
    for size in [BODY_LIMIT + 1, BODY_LIMIT * 4, BODY_LIMIT * 100] {
        let reply = world.post_bytes(COMPLETIONS, "x".repeat(size)).await;
        assert_eq!(reply.error(), (413, "body_too_large".to_owned(), Value::Null));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_408() {
    let world = world();
    let body = Body::from_stream(futures_util::stream::pending::<Result<String, std::io::Error>>());
    let reply = Reply::read(world.send(post(COMPLETIONS, body)).await).await;
    assert_eq!(reply.error(), (408, "request_timeout".to_owned(), Value::Null));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let world = world();
    let broken = Err::<String, _>(std::io::Error::other("gone"));
    let body = Body::from_stream(futures_util::stream::iter([Ok("{".to_owned()), broken]));
    let reply = Reply::read(world.send(post(COMPLETIONS, body)).await).await;
    assert_eq!(reply.error(), (400, "incomplete_body".to_owned(), Value::Null));
}

#[tokio::test]
async fn prompts_beyond_the_context_are_refused() {
    let world = world();
    let too_long = (400, "context_length_exceeded".to_owned(), Value::Null);
    for (prompt, max_tokens) in [
        (512, json!(null)),
        (513, json!(1)),
        (10_000, json!(1)),
        (512, json!(1)),
        (1, json!(512)),
    ] {
        let body = completion(vec![97; prompt], json!({"max_tokens": max_tokens}));
        let reply = world.post(COMPLETIONS, &body).await;
        assert_eq!(reply.error(), too_long, "{prompt} + {max_tokens}");
    }
    let reply = world.post(CHAT, &chat("word ".repeat(200), json!({}))).await;
    assert_eq!(reply.error(), too_long);
    let huge = completion("a", json!({"max_tokens": i64::MAX}));
    assert_eq!(world.post(COMPLETIONS, &huge).await.error(), too_long);
}

#[tokio::test]
async fn unknown_models_routes_and_methods() {
    let world = world();
    let reply = world
        .post(COMPLETIONS, &completion("a", json!({"model": "nobody"})))
        .await;
    assert_eq!(reply.error(), (404, "model_not_found".to_owned(), json!("model")));
    let reply = world
        .post(COMPLETIONS, &completion("a", json!({"adapters": [{"name": "nobody"}]})))
        .await;
    assert_eq!(reply.error(), (404, "model_not_found".to_owned(), json!("adapters")));
    assert_eq!(world.get("/v1/models/nobody").await.error().1, "model_not_found");
    assert_eq!(
        world.get("/v1/nothing").await.error(),
        (404, "unknown_url".to_owned(), Value::Null)
    );
    assert_eq!(
        world.get(COMPLETIONS).await.error(),
        (405, "method_not_allowed".to_owned(), Value::Null)
    );
    assert_eq!(world.post("/v1/models", &json!({})).await.error().0, 405);
    assert_eq!(world.post("/health", &json!({})).await.error().0, 405);
}

#[tokio::test]
async fn where_keys_are_set_one_must_come() {
    let setup = Setup {
        keys: vec!["sesame".to_owned(), "second".to_owned()],
        ..Setup::default()
    };
    let world = World::new(setup);
    let ask = async |path: &str, key: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let request = request.body(Body::empty()).unwrap();
        Reply::read(world.send(request).await).await
    };
    for key in [
        None,
        Some("sesame"),
        Some("Bearer "),
        Some("Bearer sesam"),
        Some("Bearer sesames"),
        Some("Basic sesame"),
    ] {
        let reply = ask("/v1/models", key).await;
        assert_eq!(
            reply.error(),
            (401, "invalid_api_key".to_owned(), Value::Null),
            "{key:?}"
        );
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    for key in ["Bearer sesame", "bearer second"] {
        assert_eq!(ask("/v1/models", Some(key)).await.status, StatusCode::OK);
    }
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(ask(path, None).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(ask("/v1/nothing", None).await.status, StatusCode::NOT_FOUND);
}
