//! Questions to the completions endpoint and what is compared of their answers.

use serde_json::{Value, json};

use crate::server::Server;

/// One choice of a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Generated tokens.
    pub ids: Vec<u64>,
    /// Generated text, the prompt's before it if echoed.
    pub text: String,
    /// As sent. Log-probabilities come from logits over the whole vocabulary and are printed so that they round trip,
    /// hence equal JSON means equal bits.
    pub logprobs: Value,
    /// `length` or `stop`.
    pub finish_reason: String,
}

/// A completion of fixed length by the most likely tokens, with log-probabilities.
pub fn question(model: &str, prompt: impl Into<Value>, max_tokens: usize) -> Value {
    json!({
        "model": model,
        "prompt": prompt.into(),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": true,
        "return_token_ids": true,
        "logprobs": 5,
    })
}

/// Distinct prompt ids, different for each seed.
pub fn prompt_ids(seed: u64, length: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u64(1000..40_000)).collect()
}

/// The first choice of a response.
pub fn answer_of(response: &Value) -> Answer {
    let choice = &response["choices"][0];
    let ids = choice["token_ids"]
        .as_array()
        .unwrap_or_else(|| panic!("no token_ids in {response}"));
    Answer {
        ids: ids.iter().map(|id| id.as_u64().unwrap()).collect(),
        text: choice["text"].as_str().unwrap().to_owned(),
        logprobs: choice["logprobs"].clone(),
        finish_reason: choice["finish_reason"].as_str().unwrap_or_default().to_owned(),
    }
}

/// Prompt tokens that were found in the prefix cache.
pub fn cached_tokens(response: &Value) -> u64 {
    let cached = &response["usage"]["prompt_tokens_details"]["cached_tokens"];
    cached
        .as_u64()
        .unwrap_or_else(|| panic!("no cached_tokens in {}", response["usage"]))
}

/// Asks; the server must answer.
pub fn ask(server: &Server, body: &Value) -> Answer {
    answer_of(&respond(server, body))
}

/// Asks; the server must answer with 200.
pub fn respond(server: &Server, body: &Value) -> Value {
    let reply = server.post("/v1/completions", body);
    assert_eq!(reply.status, 200, "{} for {body}", reply.text);
    reply.json()
}

/// Asks one after the other.
pub fn ask_alone(server: &Server, bodies: &[Value]) -> Vec<Answer> {
    bodies.iter().map(|body| ask(server, body)).collect()
}

/// Asks all at the same time.
pub fn ask_together(server: &Server, bodies: &[Value]) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = bodies.iter().map(|body| scope.spawn(|| ask(server, body))).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().expect("a request failed"))
            .collect()
    })
}

/// Fails with the first difference in words instead of two pages of JSON.
pub fn assert_same(claim: &str, got: &[Answer], expected: &[Answer]) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.ids, expected.ids, "{claim}: tokens of request {index}");
        let (got, expected) = (&got.logprobs, &expected.logprobs);
        let (lines, references) = (got["token_logprobs"].as_array(), expected["token_logprobs"].as_array());
        assert_eq!(lines, references, "{claim}: log-probabilities of request {index}");
        assert!(got == expected, "{claim}: top log-probabilities of request {index}");
    }
    assert_eq!(got, expected, "{claim}");
}
