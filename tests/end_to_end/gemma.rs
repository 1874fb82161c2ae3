//! Gemma 3 270M, a second real model: another family, K-quants, a SentencePiece tokenizer and sliding windows of 512 tokens,
//! against the reference's numbers on a passage of 900.

use serde_json::{Map, Value, json};

use crate::reference::{F32, INT8, Tolerance, check};
use crate::server::{BASE, Server, gemma};

fn expected() -> Value {
    serde_json::from_str(include_str!("../fixtures/gemma3-270m.json")).unwrap()
}

fn served(activations: &str, tolerance: &Tolerance) {
    let server = Server::start_on(&gemma(), &["--activations", activations]);
    let expected = expected();
    assert!(expected["text"]["ids"].as_array().unwrap().len() > 512);
    check(&server, &Map::from_iter([(BASE.to_owned(), expected)]), tolerance);
}

#[test]
fn int8_activations_stay_near_the_reference() {
    served("int8", &INT8);
}

#[test]
fn f32_activations_match_the_reference() {
    served("f32", &F32);
}

#[test]
fn text_becomes_the_reference_s_ids() {
    let server = Server::start_on(&gemma(), &[]);
    for prompt in expected()["prompts"].as_array().unwrap() {
        let reply = server.post("/tokenize", &json!({"model": BASE, "prompt": prompt["input"]}));
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["tokens"], prompt["ids"], "{}", prompt["input"]);
        let body = json!({"model": BASE, "prompt": prompt["input"], "max_tokens": 1, "return_token_ids": true});
        let response = server.post("/v1/completions", &body).json();
        assert_eq!(response["choices"][0]["prompt_token_ids"], prompt["ids"], "{response}");
    }
}
