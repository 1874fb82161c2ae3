//! Parameters have OpenAI's exact meaning, and streams carry exactly what whole answers do.

use serde_json::{Value, json};

use crate::answers::{answer_of, ask, prompt_ids, question, respond};
use crate::http;
use crate::server::{BASE, Server, Shared, fixture_adapters};

const FRANCE: &str = "The capital of France is";
const FRANCE_IDS: [u64; 5] = [504, 3575, 282, 4649, 314];

static SERVER: Shared = Shared::new(|| Server::start(&["--adapters", fixture_adapters()]));

fn body(fields: Value) -> Value {
    let mut body =
        json!({"model": BASE, "prompt": FRANCE, "max_tokens": 8, "temperature": 0, "return_token_ids": true});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// Texts of the choices in order.
fn texts(response: &Value) -> Vec<String> {
    let choices = response["choices"].as_array().unwrap().iter();
    choices
        .map(|choice| choice["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_four_forms_of_a_prompt_mean_the_same() {
    let server = SERVER.get();
    let text = respond(&server, &body(json!({})));
    assert_eq!(text["choices"][0]["prompt_token_ids"], json!(FRANCE_IDS));
    let ids = respond(&server, &body(json!({"prompt": FRANCE_IDS})));
    assert_eq!(texts(&ids), texts(&text));
    for prompt in [json!([FRANCE, "One, two,"]), json!([FRANCE_IDS, [3725, 28, 827, 28]])] {
        let both = respond(&server, &body(json!({"prompt": prompt})));
        assert_eq!(both["choices"].as_array().unwrap().len(), 2);
        assert_eq!(texts(&both)[0], texts(&text)[0]);
        assert_eq!(both["choices"][1]["index"], 1);
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it_even_across_tokens() {
    let server = SERVER.get();
    let whole = texts(&respond(&server, &body(json!({"max_tokens": 24}))))[0].clone();
    // From the middle of one word to the middle of the next.
    let middle = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop: String = whole[middle..].chars().take(5).collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["never in there", stop])] {
        let stopped = respond(&server, &body(json!({"max_tokens": 24, "stop": stop})));
        assert_eq!(texts(&stopped)[0], expected);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
        let streamed = stream(&server, &body(json!({"max_tokens": 24, "stop": stop})));
        assert_eq!(
            (streamed.text.as_str(), streamed.finish_reason.as_str()),
            (expected, "stop")
        );
    }
}

/// A stream put together again.
struct Streamed {
    text: String,
    ids: Vec<Value>,
    finish_reason: String,
    usage: Value,
}

fn stream(server: &Server, body: &Value) -> Streamed {
    let mut body = body.clone();
    (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
    let mut streamed = Streamed {
        text: String::new(),
        ids: Vec::new(),
        finish_reason: String::new(),
        usage: Value::Null,
    };
    for event in server.stream("/v1/completions", &body) {
        let event = event.unwrap();
        if let Some(choice) = event["choices"].get(0) {
            streamed.text += choice["text"].as_str().unwrap();
            streamed
                .ids
                .extend(choice["token_ids"].as_array().into_iter().flatten().cloned());
            streamed.finish_reason += choice["finish_reason"].as_str().unwrap_or_default();
        } else {
            streamed.usage = event["usage"].clone();
        }
    }
    streamed
}

#[test]
fn a_stream_never_splits_a_character_and_equals_the_whole_answer() {
    let server = SERVER.get();
    for seed in 0..6 {
        let body = body(json!({
            "prompt": "🦀 漢字かな交じり文 🌳 ñandú — 🎉🎊", "max_tokens": 60, "temperature": 1.2, "seed": seed, "ignore_eos": true,
        }));
        let whole = respond(&server, &body);
        let streamed = stream(&server, &body);
        assert_eq!(streamed.text, texts(&whole)[0]);
        assert_eq!(json!(streamed.ids), whole["choices"][0]["token_ids"]);
        assert_eq!(streamed.finish_reason, "length");
        assert_eq!(streamed.usage["completion_tokens"], 60);
        assert_eq!(streamed.usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    }
}

#[test]
fn sampling_parameters_choose_what_they_say() {
    let server = SERVER.get();
    let greedy = respond(&server, &body(json!({})));
    for fields in [
        json!({"temperature": 1, "top_k": 1}),
        json!({"temperature": 1, "top_p": 0.0001}),
        json!({"temperature": 1, "min_p": 1.0}),
    ] {
        assert_eq!(
            texts(&respond(&server, &body(fields.clone()))),
            texts(&greedy),
            "{fields}"
        );
    }
    let biased = respond(&server, &body(json!({"logit_bias": {"1234": 100}, "max_tokens": 3})));
    assert_eq!(biased["choices"][0]["token_ids"], json!([1234, 1234, 1234]));
    let first = greedy["choices"][0]["token_ids"][0].as_u64().unwrap().to_string();
    let banned = respond(&server, &body(json!({"logit_bias": {first: -100}})));
    assert_ne!(
        banned["choices"][0]["token_ids"][0],
        greedy["choices"][0]["token_ids"][0]
    );
}

#[test]
fn penalties_break_a_loop() {
    let server = SERVER.get();
    let distinct = |fields: Value| {
        let mut body = body(json!({"prompt": "Xin chào, hôm nay", "max_tokens": 40, "ignore_eos": true}));
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let ids = respond(&server, &body)["choices"][0]["token_ids"]
            .as_array()
            .unwrap()
            .clone();
        ids.iter()
            .map(Value::to_string)
            .collect::<std::collections::HashSet<_>>()
            .len()
    };
    let looping = distinct(json!({}));
    assert!(looping < 20, "{looping} different tokens in a loop");
    for penalty in [
        json!({"presence_penalty": 2}),
        json!({"frequency_penalty": 2}),
        json!({"repetition_penalty": 1.5}),
    ] {
        let broken = distinct(penalty.clone());
        assert!(
            broken > looping,
            "{penalty}: {broken} different tokens, {looping} without"
        );
    }
    assert_eq!(
        distinct(json!({"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1})),
        looping
    );
}

#[test]
fn a_seed_repeats_a_sample_and_choices_differ() {
    let server = SERVER.get();
    let sample = |seed: u64| {
        let body = body(json!({"temperature": 1.0, "seed": seed, "n": 3, "max_tokens": 16, "ignore_eos": true}));
        texts(&respond(&server, &body))
    };
    let three = sample(11);
    assert_eq!(three, sample(11));
    assert_ne!(three, sample(12));
    assert!(
        three[0] != three[1] && three[1] != three[2] && three[0] != three[2],
        "{three:?}"
    );
}

#[test]
fn echo_scores_the_prompt_and_generation_continues_it() {
    let server = SERVER.get();
    let mut scored = question(BASE, json!(FRANCE_IDS), 0);
    scored["echo"] = json!(true);
    let scored = respond(&server, &scored);
    let choice = &scored["choices"][0];
    assert_eq!(choice["text"], FRANCE);
    assert_eq!(
        choice["logprobs"]["tokens"],
        json!(["The", " capital", " of", " France", " is"])
    );
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 3, 11, 14, 21]));
    assert!(choice["logprobs"]["token_logprobs"][0].is_null());
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let mut both = question(BASE, json!(FRANCE_IDS), 4);
    both["echo"] = json!(true);
    let both = answer_of(&respond(&server, &both));
    let after = ask(&server, &question(BASE, json!(FRANCE_IDS), 4));
    assert_eq!(both.text, format!("{FRANCE}{}", after.text));
    let tail = &both.logprobs["token_logprobs"].as_array().unwrap()[5..];
    assert_eq!(tail, after.logprobs["token_logprobs"].as_array().unwrap());
    let head = &both.logprobs["token_logprobs"].as_array().unwrap()[..5];
    assert_eq!(head, choice["logprobs"]["token_logprobs"].as_array().unwrap());
}

#[test]
fn a_weighted_sum_of_adapters_is_neither_of_them_and_ordered_by_the_request() {
    let server = SERVER.get();
    let sum = |adapters: Value| {
        let mut body = question(BASE, prompt_ids(2, 12), 12);
        body["adapters"] = adapters;
        ask(&server, &body)
    };
    let (one, other) = (
        json!({"name": "r8-all", "scale": 0.6}),
        json!({"name": "r16-qv", "scale": 0.4}),
    );
    let both = sum(json!([one, other]));
    assert_eq!(both, sum(json!([one, other])));
    assert_ne!(both, sum(json!([one])));
    assert_ne!(both, sum(json!([other])));
    assert_ne!(both, ask(&server, &question(BASE, prompt_ids(2, 12), 12)));
}

#[test]
fn tokenize_and_detokenize_are_inverse() {
    let server = SERVER.get();
    for text in [FRANCE, "  two  spaces\n\n\ttab", "🦀 漢字 ñ", "<|im_start|>"] {
        let reply = server.post("/tokenize", &json!({"model": BASE, "prompt": text})).json();
        let tokens = reply["tokens"].as_array().unwrap_or_else(|| panic!("{reply}"));
        assert_eq!(reply["count"], tokens.len());
        let back = server
            .post("/detokenize", &json!({"model": BASE, "tokens": tokens}))
            .json();
        assert_eq!(back["prompt"], text, "{reply}");
    }
}

#[test]
fn a_key_is_asked_for_where_one_is_set() {
    let server = Server::start(&["--api-key", "sesame"]);
    let url = format!("{}/v1/completions", server.url);
    let body = question(BASE, FRANCE, 1).to_string();
    let ask = |headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        http::post_bytes(&url, body.as_bytes(), &headers).unwrap()
    };
    for headers in [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", "sesame")],
    ] {
        let reply = ask(headers);
        assert_eq!(reply.status, 401, "{}", reply.text);
        assert!(!reply.code().is_empty(), "{}", reply.text);
    }
    assert_eq!(ask(&[("authorization", "Bearer sesame")]).status, 200);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn metrics_tell_what_ran_and_for_whom() {
    let server = Server::start(&["--adapters", fixture_adapters()]);
    let before = server.get("/metrics").text;
    assert!(before.contains("vllm:lora_requests_info"), "{before}");
    ask(&server, &question("r16-qv", prompt_ids(1, 10), 5));
    ask(&server, &question(BASE, prompt_ids(2, 20), 6));
    assert_eq!(server.expect_metric("vllm:prompt_tokens_total"), 30.0);
    assert_eq!(server.expect_metric("vllm:generation_tokens_total"), 11.0);
    let text = server.get("/metrics").text;
    assert!(
        text.contains("rootstock_generated_tokens_total{adapter=\"r16-qv\"} 5"),
        "{text}"
    );
    assert!(
        text.contains("rootstock_prompt_tokens_total{adapter=\"r16-qv\"} 10"),
        "{text}"
    );
    for gauge in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ] {
        assert_eq!(server.expect_metric(gauge), 0.0, "{gauge}");
    }
    // The first token of each, and the gaps between the others.
    assert_eq!(server.expect_metric("rootstock_time_to_first_token_seconds_count"), 2.0);
    assert_eq!(server.expect_metric("rootstock_inter_token_seconds_count"), 9.0);
}
