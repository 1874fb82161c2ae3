//! What `/v1/completions` answers.

use serde_json::{Value, json};

use super::counter::END;
use super::world::{BASE, world};

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let world = world();
    let answer = world.complete("a", json!({})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("text_completion"), &json!(BASE))
    );
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = json!({"index": 0, "text": "bcd", "logprobs": null, "finish_reason": "length", "stop_reason": null});
    assert_eq!(answer["choices"], json!([choice]));
    let usage = json!({
        "prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0},
    });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn sixteen_tokens_unless_the_request_says_how_many() {
    let world = world();
    let answer = world.complete("A", json!({"max_tokens": null})).await;
    assert_eq!(texts(&answer), ["BCDEFGHIJKLMNOPQ"]);
    let answer = world.complete("A", json!({"max_completion_tokens": 2})).await;
    assert_eq!(texts(&answer), ["BC"]);
    let answer = world.complete("A", json!({"max_tokens": 2.0})).await;
    assert_eq!(texts(&answer), ["BC"]);
}

#[tokio::test]
async fn prompts_come_in_four_forms_and_choices_in_their_order() {
    let world = world();
    for (prompt, expected) in [
        (json!("a"), vec!["b"]),
        (json!([97]), vec!["b"]),
        (json!(["a", "x"]), vec!["b", "y"]),
        (json!([[97], [120], [48]]), vec!["b", "y", "1"]),
    ] {
        let answer = world.complete(prompt, json!({"max_tokens": 1})).await;
        assert_eq!(texts(&answer), expected);
    }
    let fields = json!({"max_tokens": 1, "n": 2, "best_of": 2, "echo": true});
    let answer = world.complete(json!(["a", "x"]), fields).await;
    assert_eq!(texts(&answer), ["ab", "ab", "xy", "xy"]);
    let indices = answer["choices"].as_array().unwrap().iter();
    assert!(indices.map(|choice| choice["index"].as_u64().unwrap()).eq(0..4));
    // A prompt counts once however many choices it has.
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn generation_ends_at_end_tokens_stop_tokens_and_stop_strings() {
    let world = world();
    let choice = async |fields| {
        let answer = world.complete("W", fields).await;
        let choice = &answer["choices"][0];
        let field = |name: &str| choice[name].clone();
        (
            field("text"),
            field("finish_reason"),
            field("stop_reason"),
            field("token_ids"),
        )
    };
    let expect = |text: &str, reason: &str, stop: Value, ids: Value| (json!(text), json!(reason), stop, ids);
    let ended = choice(json!({"max_tokens": 9, "return_token_ids": true})).await;
    assert_eq!(ended, expect("XYZ", "stop", Value::Null, json!([88, 89, 90])));
    let ignored = choice(json!({"max_tokens": 5, "ignore_eos": true, "return_token_ids": true})).await;
    assert_eq!(
        ignored,
        expect("XYZa", "length", Value::Null, json!([88, 89, 90, END, 97]))
    );
    let shown = choice(json!({"max_tokens": 5, "ignore_eos": true, "skip_special_tokens": false})).await;
    assert_eq!(shown, expect("XYZ<|end|>a", "length", Value::Null, Value::Null));
    let token = choice(json!({"max_tokens": 9, "stop_token_ids": [89]})).await;
    assert_eq!(token, expect("X", "stop", json!(89), Value::Null));
    let text = choice(json!({"max_tokens": 9, "stop": ["nowhere", "YZ"], "return_token_ids": true})).await;
    assert_eq!(text, expect("X", "stop", json!("YZ"), json!([88, 89, 90])));
    let text = choice(json!({"max_tokens": 9, "stop": "X"})).await;
    assert_eq!(text, expect("", "stop", json!("X"), Value::Null));
}

#[tokio::test]
async fn logprobs_have_the_legacy_shape() {
    let world = world();
    let answer = world.complete("a", json!({"max_tokens": 2, "logprobs": 2})).await;
    let told = &answer["choices"][0]["logprobs"];
    assert_eq!(
        (&told["tokens"], &told["text_offset"]),
        (&json!(["b", "c"]), &json!([0, 1]))
    );
    let best = told["token_logprobs"][0].as_f64().unwrap();
    let expected = 10.0 - (10f64.exp() + 8f64.exp() + 256.0).ln();
    assert!((best - expected).abs() < 1e-3, "{best} {expected}");
    let top = told["top_logprobs"][0].as_object().unwrap();
    assert_eq!(top.len(), 2);
    assert_eq!(top["b"].as_f64().unwrap(), best);
    assert!((best - top["c"].as_f64().unwrap() - 2.0).abs() < 1e-3);

    // The token that was chosen is told beside the likeliest ones.
    let fields = json!({"max_tokens": 1, "logprobs": 1, "logit_bias": {"120": 100}});
    let answer = world.complete("a", fields).await;
    let top = answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap();
    assert!(top["b"].as_f64().unwrap() > top["x"].as_f64().unwrap());
    let fields = json!({"max_tokens": 1, "logprobs": 0, "return_tokens_as_token_ids": true});
    let answer = world.complete("a", fields).await;
    let told = &answer["choices"][0]["logprobs"];
    assert_eq!(told["tokens"], json!(["token_id:98"]));
    assert_eq!(told["top_logprobs"][0]["token_id:98"], told["token_logprobs"][0]);
}

#[tokio::test]
async fn echo_scores_the_prompt() {
    let world = world();
    let fields = json!({"max_tokens": 0, "echo": true, "logprobs": 1, "return_token_ids": true});
    let answer = world.complete("abx", fields).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("abx"), &json!("length"))
    );
    assert_eq!(
        (&choice["prompt_token_ids"], &choice["token_ids"]),
        (&json!([97, 98, 120]), &json!([]))
    );
    let told = &choice["logprobs"];
    assert_eq!(told["tokens"], json!(["a", "b", "x"]));
    assert_eq!(told["text_offset"], json!([0, 1, 2]));
    assert!(told["token_logprobs"][0].is_null() && told["top_logprobs"][0].is_null());
    assert_eq!(told["top_logprobs"][1]["b"], told["token_logprobs"][1]);
    assert!(told["top_logprobs"][2]["c"].as_f64() > told["token_logprobs"][2].as_f64());
    assert_eq!(answer["usage"]["completion_tokens"], 0);

    let answer = world
        .complete("ab", json!({"max_tokens": 2, "echo": true, "logprobs": 1}))
        .await;
    assert_eq!(texts(&answer), ["abcd"]);
    let told = &answer["choices"][0]["logprobs"];
    assert_eq!(told["text_offset"], json!([0, 1, 2, 3]));
    assert_eq!(told["token_logprobs"].as_array().unwrap().len(), 4);
    let answer = world.complete("ab", json!({"max_tokens": 0, "echo": true})).await;
    assert_eq!(texts(&answer), ["ab"]);
    let answer = world
        .complete(json!([97, END]), json!({"max_tokens": 1, "echo": true}))
        .await;
    assert_eq!(texts(&answer), ["a<|end|>a"]);
}

#[tokio::test]
async fn a_token_that_is_no_character_is_told_by_its_bytes() {
    let world = world();
    let answer = world.complete("#", json!({"max_tokens": 5, "logprobs": 0})).await;
    assert_eq!(texts(&answer), ["🦀!"]);
    let told = &answer["choices"][0]["logprobs"];
    let bytes = ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\xa6", "bytes:\\x80", "!"];
    assert_eq!(told["tokens"], json!(bytes));
    assert_eq!(told["text_offset"], json!([0, 0, 0, 0, 1]));
}

#[tokio::test]
async fn seeds_repeat_and_choices_of_a_request_differ() {
    let world = world();
    let sample = async |seed: Value| {
        let fields = json!({"temperature": 2, "n": 3, "seed": seed, "max_tokens": 12, "logit_bias": {"98": -100}});
        let answer = world.complete("a", fields).await;
        texts(&answer).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let three = sample(json!(5)).await;
    assert_eq!(three, sample(json!(5)).await);
    assert!(three[0] != three[1] && three[1] != three[2]);
    assert_ne!(three, sample(json!(-5)).await);
    assert_ne!(sample(Value::Null).await, sample(Value::Null).await);
}

#[tokio::test]
async fn cached_prompt_tokens_are_told() {
    let world = world();
    let prompt = "0".repeat(40);
    world.complete(prompt.clone(), json!({})).await;
    // A stop string ends a choice before the engine reports its usage.
    for fields in [json!({}), json!({"stop": "1"})] {
        let answer = world.complete(prompt.clone(), fields).await;
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
    }
    let text = world.get("/metrics").await.text;
    assert!(
        text.contains("rootstock_cached_prompt_tokens_total{adapter=\"base\"} 64"),
        "{text}"
    );
}

#[tokio::test]
async fn what_fits_the_context_is_answered_and_no_more() {
    let world = world();
    let prompt = vec![97; 508];
    let answer = world.complete(prompt.clone(), json!({"max_tokens": 4})).await;
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let answer = world.complete(prompt, json!({"max_tokens": null})).await;
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let scored = json!({"max_tokens": 0, "echo": true, "logprobs": 0});
    let answer = world.complete(vec![97; 512], scored).await;
    assert_eq!(
        answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(),
        512
    );
}

#[tokio::test]
async fn a_large_answer_is_written_whole() {
    let world = world();
    let prompt = "0".repeat(400);
    let fields = json!({"max_tokens": 100, "n": 4, "echo": true, "logprobs": 20, "ignore_eos": true});
    let answer = world.complete(prompt, fields).await;
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 500, "{choice}");
        assert_eq!(choice["finish_reason"], "length");
    }
    assert_eq!(answer["usage"]["total_tokens"], 800);
}
