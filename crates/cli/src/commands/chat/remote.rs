//! A running server as the one who answers, over its OpenAI API.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::backend::{Backend, OnText};
use crate::http;
use crate::settings::GenerationSettings;

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

    fn body(&self, messages: &[Value], model: &str) -> Value {
        let GenerationSettings {
            sampling,
            max_tokens,
            stop,
        } = &self.generation;
        let mut body = json!({
            "model": model,
            "messages": messages,
            "stream": true,
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "repetition_penalty": sampling.repetition_penalty,
            // Servers take a signed integer.
            "seed": sampling.seed >> 1,
        });
        if let Some(top_k) = sampling.top_k {
            body["top_k"] = top_k.into();
        }
        if !stop.is_empty() {
            body["stop"] = json!(stop);
        }
        body
    }
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
        let body = self.body(messages, adapter.unwrap_or(&self.base)).to_string();
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
