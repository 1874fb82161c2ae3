//! The Hugging Face Hub, or a mirror of it: its local cache first, then HTTP with ranges, so that an interrupted
//! download goes on where it ended.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::{AUTHORIZATION, CONTENT_RANGE, RANGE};

use super::partial::Partial;
use crate::catalog::HubFile;
use crate::http;
use crate::progress::Progress;

const PUBLIC: &str = "https://huggingface.co";
/// Short, so that a machine that cannot reach the hub gets to the next source soon.
const CONNECT: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(30);
/// Requests for one file, as long as each brings bytes.
const ATTEMPTS: usize = 8;

/// Where the hub is and who asks.
pub struct Hub {
    /// Without a slash at the end.
    pub endpoint: String,
    /// Bearer token; sent to the endpoint only, not to where it redirects.
    pub token: Option<String>,
    /// `hub` folder of the cache, in its `models--ORG--NAME/snapshots` layout.
    pub cache: Option<PathBuf>,
    /// Use the cache alone.
    pub offline: bool,
}

impl Hub {
    /// As the hub's own tools read the environment.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = set("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("HF_HOME")?).join("hub")))
            .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("huggingface/hub")))
            .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface/hub")));
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        let yes = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: set("HF_TOKEN"),
            cache,
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
        }
    }

    /// Completes `partial` from the cache or over HTTP.
    ///
    /// # Errors
    /// The hub is out of reach, refuses, or ends early too often.
    pub fn fill(&self, partial: &mut Partial, file: &HubFile, progress: &Progress) -> Result<()> {
        if let Some(mut cached) = self.cached(file) {
            partial.restart()?;
            return partial.append(&mut cached, progress);
        }
        if self.offline {
            bail!("not in the hub's cache, and HF_HUB_OFFLINE is set");
        }
        let mut reason = anyhow!("no bytes came");
        for _ in 0..ATTEMPTS {
            let before = partial.length();
            match self.request(partial, file, progress) {
                Ok(()) if partial.is_complete() => return Ok(()),
                Ok(()) => reason = anyhow!("the connection ended after {} bytes", partial.length()),
                Err(error) => reason = error,
            }
            if partial.length() <= before {
                break;
            }
        }
        Err(reason)
    }

    fn cached(&self, file: &HubFile) -> Option<File> {
        let repo = self
            .cache
            .as_ref()?
            .join(format!("models--{}", file.repo.replace('/', "--")));
        let commit = std::fs::read_to_string(repo.join("refs").join(&file.revision));
        let commit = commit.map_or_else(|_| file.revision.clone(), |commit| commit.trim().to_owned());
        File::open(repo.join("snapshots").join(commit).join(&file.file)).ok()
    }

    /// One request for the bytes that are missing.
    fn request(&self, partial: &mut Partial, file: &HubFile, progress: &Progress) -> Result<()> {
        let url = self.url(file);
        let offset = partial.length();
        let mut request = agent().get(&url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let mut response = request.call().map_err(|error| anyhow!("{url}: {error}"))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|range| range.to_str().ok());
                if !range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-"))) {
                    bail!("{url}: asked for bytes from {offset}, got {range:?}");
                }
            }
            // A server without ranges sends the whole file again.
            StatusCode::OK => partial.restart()?,
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!("{url}: {status}; the file may need a token in HF_TOKEN")
            }
            status => bail!("{url}: {status}"),
        }
        partial.append(&mut response.body_mut().as_reader(), progress)
    }

    fn url(&self, file: &HubFile) -> String {
        let revision = http::escape(&file.revision, b"");
        let (repo, path) = (http::escape(&file.repo, b"/"), http::escape(&file.file, b"/"));
        format!("{}/{repo}/resolve/{revision}/{path}", self.endpoint)
    }
}

fn agent() -> Agent {
    http::client()
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL))
        .build()
        .into()
}
