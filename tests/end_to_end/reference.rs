//! The reference's numbers over HTTP: log-probabilities of a passage, most likely tokens, greedy continuations, chat prompts.

use serde_json::{Map, Value, json};

use crate::server::Server;

/// How far from the reference a value may be.
pub struct Tolerance {
    /// Of the mean negative log-likelihood.
    pub nll: f64,
    /// Mean over tokens of the distance of log-probabilities.
    pub logprob: f64,
    /// From this reference margin on, in nats, the most likely token must be the same.
    pub sure_margin: f64,
}

/// Rounding to int8 alone costs up to 0.012, 0.065, and flips nothing above 0.46.
pub const INT8: Tolerance = Tolerance {
    nll: 0.02,
    logprob: 0.08,
    sure_margin: 0.75,
};

/// What the order of f32 additions costs.
pub const F32: Tolerance = Tolerance {
    nll: 0.003,
    logprob: 0.003,
    sure_margin: 0.05,
};

/// Compares every model of `expected` with its values, all at the same time.
///
/// # Panics
/// A value is too far; all that are, are listed.
pub fn check(server: &Server, expected: &Map<String, Value>, tolerance: &Tolerance) {
    let misses: Vec<String> = std::thread::scope(|scope| {
        let models: Vec<_> = expected
            .iter()
            .map(|(model, expected)| scope.spawn(|| check_model(server, model, expected, tolerance)))
            .collect();
        models
            .into_iter()
            .flat_map(|model| model.join().expect("a model could not be checked"))
            .collect()
    });
    assert!(misses.is_empty(), "{} misses\n{}", misses.len(), misses.join("\n"));
}

fn check_model(server: &Server, model: &str, expected: &Value, tolerance: &Tolerance) -> Vec<String> {
    let mut misses = Vec::new();
    misses.extend(check_passage(server, model, &expected["text"], tolerance));
    for prompt in expected["prompts"].as_array().unwrap() {
        misses.extend(check_argmax(server, model, prompt, tolerance));
        misses.extend(check_greedy(server, model, prompt, tolerance));
    }
    misses
}

/// Log-probability of each token after the first, and of the most likely one there.
fn scored(server: &Server, model: &str, ids: &[Value]) -> Vec<(f64, f64)> {
    let body = json!({"model": model, "prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1});
    let reply = server.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{model}: {}", reply.text);
    let response = reply.json();
    let logprobs = &response["choices"][0]["logprobs"];
    let tokens = logprobs["token_logprobs"].as_array().unwrap().iter();
    let top = logprobs["top_logprobs"].as_array().unwrap().iter();
    let best = |top: &Value| {
        top.as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_f64)
            .fold(f64::MIN, f64::max)
    };
    tokens
        .zip(top)
        .skip(1)
        .map(|(token, top)| (token.as_f64().unwrap(), best(top)))
        .collect()
}

fn check_passage(server: &Server, model: &str, text: &Value, tolerance: &Tolerance) -> Option<String> {
    let got = scored(server, model, text["ids"].as_array().unwrap());
    let reference = numbers(&text["token_logprobs"]);
    assert_eq!(got.len(), reference.len(), "{model}: log-probabilities of the passage");
    let count = got.len() as f64;
    let differences = || got.iter().zip(&reference).map(|((got, _), reference)| got - reference);
    let nll = (differences().sum::<f64>() / count).abs();
    let logprob = differences().map(f64::abs).sum::<f64>() / count;
    println!("{model}: |dNLL| {nll:.4}, mean |dlogprob| {logprob:.4}");
    let near = nll <= tolerance.nll && logprob <= tolerance.logprob;
    (!near).then(|| format!("{model}: |dNLL| {nll:.4}, mean |dlogprob| {logprob:.4}"))
}

/// Teacher-forced: at every position where the reference is sure, its token is the most likely one.
fn check_argmax(server: &Server, model: &str, prompt: &Value, tolerance: &Tolerance) -> Vec<String> {
    let (ids, greedy) = (
        prompt["ids"].as_array().unwrap(),
        prompt["greedy_ids"].as_array().unwrap(),
    );
    let whole: Vec<Value> = ids.iter().chain(greedy).cloned().collect();
    let got = scored(server, model, &whole);
    let margins = numbers(&prompt["greedy_margin"]);
    let steps = got[ids.len() - 1..].iter().zip(&margins).enumerate();
    steps
        .filter(|(_, ((token, best), margin))| **margin >= tolerance.sure_margin && *token < best - 1e-6)
        .map(|(step, (_, margin))| {
            format!(
                "{model}: not the argmax at step {step} (margin {margin}) after {}",
                prompt["input"]
            )
        })
        .collect()
}

/// Generated: as long as the reference is sure, its tokens; and for chat, the reference's prompt.
fn check_greedy(server: &Server, model: &str, prompt: &Value, tolerance: &Tolerance) -> Vec<String> {
    let chat = prompt["kind"] == "chat";
    let mut body = json!({
        "model": model, "temperature": 0, "max_tokens": 24, "ignore_eos": true, "return_token_ids": true,
    });
    let path = if chat {
        "/v1/chat/completions"
    } else {
        "/v1/completions"
    };
    let (field, input) = if chat {
        ("messages", &prompt["input"])
    } else {
        ("prompt", &prompt["ids"])
    };
    body[field] = input.clone();
    let reply = server.post(path, &body);
    assert_eq!(reply.status, 200, "{model}: {}", reply.text);
    let choice = reply.json()["choices"][0].clone();
    let margins = numbers(&prompt["greedy_margin"]);
    let sure = margins
        .iter()
        .position(|margin| *margin < tolerance.sure_margin)
        .unwrap_or(margins.len());
    let mut misses = Vec::new();
    if choice["prompt_token_ids"] != prompt["ids"] {
        misses.push(format!(
            "{model}: other prompt ids for {}: {}",
            prompt["input"], choice["prompt_token_ids"]
        ));
    }
    let got = choice["token_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reference = prompt["greedy_ids"].as_array().unwrap();
    if got.len() != 24 || got[..sure] != reference[..sure] {
        misses.push(format!(
            "{model}: greedy ids differ within the first {sure} after {}",
            prompt["input"]
        ));
    }
    misses
}

fn numbers(values: &Value) -> Vec<f64> {
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect()
}
