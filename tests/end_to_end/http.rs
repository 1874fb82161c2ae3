//! A blocking HTTP client of the size these tests need: JSON in, JSON or server-sent events out, one connection per request.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value;

/// Long enough for the slowest answer of a debug build on two cores; reaching it is a failure.
const TIMEOUT: Duration = Duration::from_secs(400);

/// A whole response.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    pub text: String,
}

impl Reply {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// `error.code` of an OpenAI-shaped error, empty where there is none.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Why there was no response at all.
pub type Failure = String;

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .max_idle_connections(0)
        .build()
        .into()
}

fn whole(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, Failure> {
    let mut response = response.map_err(|error| error.to_string())?;
    let retry_after = response.headers().get("retry-after");
    Ok(Reply {
        status: response.status().as_u16(),
        retry_after: retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned),
        text: response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .map_err(|error| error.to_string())?,
    })
}

/// GET.
pub fn get(url: &str) -> Result<Reply, Failure> {
    whole(agent().get(url).call())
}

/// POST of bytes as they are, with headers.
pub fn post_bytes(url: &str, body: &[u8], headers: &[(&str, &str)]) -> Result<Reply, Failure> {
    let request = headers.iter().fold(agent().post(url), |request, (name, value)| {
        request.header(*name, *value)
    });
    whole(request.send(body))
}

/// POST of JSON.
pub fn post(url: &str, body: &Value) -> Result<Reply, Failure> {
    post_bytes(
        url,
        body.to_string().as_bytes(),
        &[("content-type", "application/json")],
    )
}

/// POST of JSON that is answered by events. Dropping the iterator closes the connection.
pub fn stream(url: &str, body: &Value) -> Result<Events, Failure> {
    let request = agent().post(url).header("content-type", "application/json");
    let response = request
        .send(body.to_string().as_bytes())
        .map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let lines = BufReader::new(response.into_body().into_reader());
    if status != 200 {
        let text: Vec<String> = lines.lines().map_while(Result::ok).collect();
        return Err(format!("HTTP {status} {}", text.join("\n")));
    }
    Ok(Events {
        lines: Box::new(lines),
        done: false,
    })
}

/// The `data:` events of a stream up to `[DONE]`; a stream that ends without it yields an error.
pub struct Events {
    lines: Box<dyn BufRead + Send>,
    done: bool,
}

impl Iterator for Events {
    type Item = Result<Value, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let event = self.read();
        self.done = !matches!(event, Ok(Some(_)));
        event.transpose()
    }
}

impl Events {
    fn read(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err("the stream ended before [DONE]".to_owned());
            }
            match line.trim_end().strip_prefix("data:").map(str::trim_start) {
                Some("[DONE]") => return Ok(None),
                Some(data) => {
                    return serde_json::from_str(data)
                        .map(Some)
                        .map_err(|error| format!("{error}: {data}"));
                }
                None => {}
            }
        }
    }
}
