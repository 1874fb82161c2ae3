//! Requests of any shape are read without a panic, and every refusal has its code.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::generation::Ask;
use crate::wire::chat::ChatRequest;
use crate::wire::completions::CompletionRequest;
use crate::wire::options::Bounds;

const BOUNDS: Bounds = Bounds {
    vocab_size: 258,
    choices: 8,
};

#[rustfmt::skip]
const FIELDS: [&str; 24] = [
    "model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "best_of", "stop",
    "stop_token_ids", "seed", "logit_bias", "repetition_penalty", "logprobs", "top_logprobs", "echo", "stream",
    "stream_options", "tools", "adapters", "adapter_scale", "response_format",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2i64..40).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        select(&["text", "user", "auto", "base"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = select(&["name", "scale", "role", "content", "type", "text", "include_usage", "7"]);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key.prop_map(str::to_owned), inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn assert_coded(error: &ApiError) {
    let body: Value = serde_json::from_str(&error.body()).unwrap();
    assert!(body["error"]["code"].is_string(), "{body}");
}

proptest! {
    #[test]
    fn any_request_is_understood_or_refused(fields in btree_map(select(&FIELDS), any_value(), 0..5)) {
        let mut body = json!({"model": "base", "prompt": "a", "messages": [{"role": "user", "content": "a"}]});
        for (name, value) in fields {
            body[name] = value;
        }
        let body = body.to_string();
        match CompletionRequest::parse(body.as_bytes(), BOUNDS) {
            Ok(request) => {
                let choices = request.prompts.len() * request.options.n;
                prop_assert!((1..=BOUNDS.choices).contains(&choices));
            }
            Err(error) => assert_coded(&error),
        }
        if let Err(error) = ChatRequest::parse(body.as_bytes(), BOUNDS) {
            assert_coded(&error);
        }
    }

    #[test]
    fn any_bytes_are_refused(body in vec(any::<u8>(), 0..200)) {
        assert_coded(&CompletionRequest::parse(&body, BOUNDS).unwrap_err());
    }
}
