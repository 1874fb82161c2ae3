//! A running server as the one who answers, over its OpenAI API.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rootstock_model::adapter::SamplingDefaults;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::backend::{Backend, OnText};
use crate::http;
use crate::settings::{DEFAULT_MAX_TOKENS, GenerationSettings};

/// A server and what it serves.
pub struct Remote {
    agent: Agent,
    url: String,
    key: Option<String>,
    generation: GenerationSettings,
    base: String,
}

impl Remote {
    /// Asks the server at `url` (with or without `/v1`) for its base.
    ///
    /// # Errors
    /// It cannot be reached, refuses the key or serves no base.
    pub fn connect(url: &str, key: Option<String>, generation: GenerationSettings) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let config = http::client().timeout_connect(Some(Duration::from_secs(5)));
        let mut remote = Self {
            agent: config.build().into(),
            url: url.strip_suffix("/v1").unwrap_or(url).to_owned(),
            key,
            generation,
            base: String::new(),
        };
        let models = remote.models()?;
        let base = models
            .iter()
            .find(|model| model["parent"].is_null())
            .and_then(|model| model["id"].as_str());
        remote.base = base.ok_or_else(|| anyhow!("{url} serves no base model"))?.to_owned();
        Ok(remote)
    }

    fn models(&self) -> Result<Vec<Value>> {
        let url = format!("{}/v1/models", self.url);
        let request = self.agent.get(&url).header("Authorization", self.authorization());
        let mut response = answered(request.call(), &url)?;
        let mut list: Value = serde_json::from_reader(response.body_mut().as_reader())
            .with_context(|| format!("{url}: the answer is no JSON"))?;
        match list["data"].take() {
            Value::Array(models) => Ok(models),
            other => bail!("{url}: expected a list of models in `data`, got {other}"),
        }
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.key.as_deref().unwrap_or("none"))
    }

    /// What the server says that an adapter brings defaults for; nothing if it says nothing.
    fn defaults(&self, adapter: &str) -> Vec<String> {
        let card = || -> Option<Value> {
            // Names have no slashes, but may have anything else.
            let url = format!("{}/v1/models/{}", self.url, http::escape(adapter, b""));
            let request = self.agent.get(&url).header("Authorization", self.authorization());
            let mut response = answered(request.call(), &url).ok()?;
            serde_json::from_reader(response.body_mut().as_reader()).ok()
        };
        let names = card().and_then(|mut card| serde_json::from_value(card["defaults"].take()).ok());
        names.unwrap_or_default()
    }
}

/// The request, with what was asked for, and with this program's own defaults where the model has none.
fn body(asked: &SamplingDefaults, messages: &[Value], model: &str, defaults: &[String]) -> Value {
    let mut body = json!({"model": model, "messages": messages, "stream": true});
    let mut put = |name: &str, asked: Option<Value>, ours: Option<Value>| {
        let ours = ours.filter(|_| !defaults.iter().any(|default| default == name));
        if let Some(value) = asked.or(ours) {
            body[name] = value;
        }
    };
    put(
        "max_tokens",
        asked.max_tokens.map(Value::from),
        Some(DEFAULT_MAX_TOKENS.into()),
    );
    put("temperature", asked.temperature.map(Value::from), Some(0.into()));
    put("top_p", asked.top_p.map(Value::from), None);
    put("top_k", asked.top_k.map(Value::from), None);
    put("min_p", asked.min_p.map(Value::from), None);
    put("presence_penalty", asked.presence_penalty.map(Value::from), None);
    put("frequency_penalty", asked.frequency_penalty.map(Value::from), None);
    put("repetition_penalty", asked.repetition_penalty.map(Value::from), None);
    put("seed", asked.seed.map(Value::from), None);
    put("stop", asked.stop.clone().map(Value::from), None);
    body
}

impl Backend for Remote {
    fn adapters(&self) -> Result<Vec<String>> {
        let models = self.models()?;
        let adapters = models.iter().filter(|model| !model["parent"].is_null());
        Ok(adapters
            .filter_map(|model| Some(model["id"].as_str()?.to_owned()))
            .collect())
    }

    fn answer(&mut self, messages: &[Value], adapter: Option<&str>, on_text: OnText<'_>) -> Result<String> {
        let url = format!("{}/v1/chat/completions", self.url);
        let defaults = adapter.map(|name| self.defaults(name)).unwrap_or_default();
        let model = adapter.unwrap_or(&self.base);
        let body = body(&self.generation.asked, messages, model, &defaults).to_string();
        let request = self
            .agent
            .post(&url)
            .header("Authorization", self.authorization())
            .header("Content-Type", "application/json");
        let response = answered(request.send(body), &url)?;
        let mut answer = String::new();
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.map_err(|error| anyhow!("{url}: the answer broke off: {error}"))?;
            match line.strip_prefix("data:").map(str::trim) {
                None => {}
                Some("[DONE]") => return Ok(answer),
                Some(event) => {
                    let text = delta(event)?;
                    on_text(&text)?;
                    answer.push_str(&text);
                }
            }
        }
        bail!("{url}: the answer broke off")
    }
}

/// The text an event of the stream adds.
fn delta(event: &str) -> Result<String> {
    let event: Value = serde_json::from_str(event).context("an event of the answer is no JSON")?;
    if let Some(message) = event["error"]["message"].as_str() {
        bail!("{message}");
    }
    Ok(event["choices"][0]["delta"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// A response that is one; what the server refused comes with its own message. Errors of the transport are told as text,
/// because an I/O error means to the caller that the terminal is gone.
fn answered(outcome: Result<Response<Body>, ureq::Error>, url: &str) -> Result<Response<Body>> {
    let mut response = outcome.map_err(|error| anyhow!("{url}: {error}"))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|body| Some(body["error"]["message"].as_str()?.to_owned()));
    bail!("{url}: {}: {}", response.status(), message.unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_was_asked_and_leaves_the_models_defaults_alone() {
        let asked = SamplingDefaults {
            top_p: Some(0.5),
            ..SamplingDefaults::default()
        };
        let plain = body(&asked, &[], "m", &[]);
        let expected =
            json!({"model": "m", "messages": [], "stream": true, "max_tokens": 256, "temperature": 0, "top_p": 0.5});
        assert_eq!(plain, expected);
        let with_defaults = body(&asked, &[], "m", &["temperature".to_owned(), "top_p".to_owned()]);
        assert_eq!(with_defaults.get("temperature"), None);
        assert_eq!(with_defaults["top_p"], 0.5);
    }
}
