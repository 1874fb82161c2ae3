//! One streamed completion as a client sees it, in OpenAI's dialect or llama-server's.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How a request names its adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// By `model`.
    OpenAi,
    /// By `lora: [{id, scale}]`; `cache_prompt` off, because that cache does not know of adapters.
    LlamaServer,
}

/// A server and the tenants that ask it.
#[derive(Debug)]
pub struct Target {
    url: String,
    dialect: Dialect,
    base: String,
    /// Names of the adapters, or the base's alone.
    pub tenants: Vec<String>,
    on_base: bool,
}

/// What came back for one request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Index into the tenants.
    pub tenant: usize,
    /// Until the first text.
    pub first: Duration,
    /// Between one event with text and the next.
    pub gaps: Vec<Duration>,
    /// Generated tokens, as the server counts them.
    pub tokens: usize,
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0);
    config.timeout_global(Some(Duration::from_secs(1800))).build().into()
}

impl Target {
    /// Asks the server for the name of its base and for its adapters.
    ///
    /// # Errors
    /// It does not answer, or has fewer adapters than wanted.
    pub fn find(url: &str, dialect: Dialect, adapters: usize) -> Result<Self> {
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let mut response = agent()
            .get(format!("{url}/v1/models"))
            .call()
            .with_context(|| format!("no server at {url}"))?;
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
        let models: Value = serde_json::from_str(&text).with_context(|| format!("{url}/v1/models"))?;
        let models = models["data"].as_array().context("/v1/models lists nothing")?;
        let id = |model: &Value| model["id"].as_str().unwrap_or_default().to_owned();
        let base = models
            .iter()
            .find(|model| model["parent"].is_null())
            .context("no base in /v1/models")?;
        let mut tenants: Vec<String> = match dialect {
            Dialect::OpenAi => models
                .iter()
                .filter(|model| !model["parent"].is_null())
                .map(id)
                .collect(),
            Dialect::LlamaServer => (0..adapters).map(|adapter| adapter.to_string()).collect(),
        };
        if dialect == Dialect::OpenAi {
            tenants.sort_unstable();
        }
        ensure!(
            tenants.len() >= adapters,
            "{adapters} adapters are wanted, the server has {}",
            tenants.len()
        );
        tenants.truncate(adapters);
        let on_base = tenants.is_empty();
        let base = id(base);
        if on_base {
            tenants.push(base.clone());
        }
        Ok(Self {
            url,
            dialect,
            base,
            tenants,
            on_base,
        })
    }

    /// The same server, asked by the name of something it may have learnt since.
    #[allow(dead_code, reason = "for the comparison with peers")]
    pub fn named(&self, name: &str) -> Self {
        Self {
            url: self.url.clone(),
            dialect: self.dialect,
            base: self.base.clone(),
            tenants: vec![name.to_owned()],
            on_base: false,
        }
    }

    /// Adapters that take part.
    pub fn adapters(&self) -> usize {
        if self.on_base { 0 } else { self.tenants.len() }
    }

    /// A counter or gauge of /metrics summed over its labels, where the server exports it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut response = agent().get(format!("{}/metrics", self.url)).call().ok()?;
        let text = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .ok()?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{'])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())
                .flatten()
        });
        values.reduce(|sum, value| sum + value)
    }

    fn body(&self, tenant: usize, prompt: &[u32], output_tokens: usize) -> Value {
        let mut body = json!({
            "model": self.base,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        match self.dialect {
            Dialect::OpenAi => body["model"] = json!(self.tenants[tenant]),
            Dialect::LlamaServer => {
                body["cache_prompt"] = json!(false);
                body["lora"] = if self.on_base {
                    json!([])
                } else {
                    json!([{"id": tenant, "scale": 1.0}])
                };
            }
        }
        body
    }

    /// Sends a prompt and reads its answer to the end, on a connection of its own.
    ///
    /// # Errors
    /// Anything but a whole answer of the wanted length.
    pub fn ask(&self, tenant: usize, prompt: &[u32], output_tokens: usize) -> Result<Sample> {
        let body = self.body(tenant, prompt, output_tokens).to_string();
        let start = Instant::now();
        let request = agent()
            .post(format!("{}/v1/completions", self.url))
            .header("content-type", "application/json");
        let mut response = request.send(body.as_bytes())?;
        if response.status() != 200 {
            bail!(
                "HTTP {} {}",
                response.status().as_u16(),
                response.body_mut().read_to_string().unwrap_or_default()
            );
        }
        let mut stream = Stream {
            first: None,
            last: start,
            gaps: Vec::new(),
            tokens: None,
        };
        let mut lines = BufReader::new(response.into_body().into_reader()).lines();
        while let Some(line) = lines.next().transpose()? {
            if stream.take(&line)? {
                break;
            }
        }
        let sample = stream.sample(tenant, start)?;
        ensure!(
            sample.tokens == output_tokens,
            "{} tokens came, {output_tokens} were asked for",
            sample.tokens
        );
        Ok(sample)
    }
}

/// A stream while it is read.
struct Stream {
    first: Option<Instant>,
    last: Instant,
    gaps: Vec<Duration>,
    tokens: Option<usize>,
}

impl Stream {
    /// Reads a line; true at the end of the stream.
    fn take(&mut self, line: &str) -> Result<bool> {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            return Ok(false);
        };
        if data == "[DONE]" {
            return Ok(true);
        }
        let event: Value = serde_json::from_str(data)?;
        ensure!(event.get("error").is_none(), "{}", event["error"]);
        if event["choices"][0]["text"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
        {
            let now = Instant::now();
            if self.first.is_some() {
                self.gaps.push(now - self.last);
            }
            self.first.get_or_insert(now);
            self.last = now;
        }
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            self.tokens = Some(tokens as usize);
        }
        Ok(false)
    }

    fn sample(self, tenant: usize, start: Instant) -> Result<Sample> {
        let first = self.first.context("no text came")? - start;
        let tokens = self.tokens.context("the server did not tell its usage")?;
        Ok(Sample {
            tenant,
            first,
            gaps: self.gaps,
            tokens,
        })
    }
}
