//! The model list: the base, and each adapter as a model whose parent is the base. What names may look like.

use rootstock_engine::adapters::AdapterInfo;
use rootstock_model::adapter::{AdapterDefaults, AdapterError};
use serde::Serialize;

use crate::error::{ApiError, ApiResult};

/// Bytes of a model's name.
const MAX_NAME_BYTES: usize = 256;

/// Refuses what cannot be a model's name: they end up in URLs, logs and metrics, where a list of them is separated by
/// commas.
pub(crate) fn served_name(param: &'static str, name: &str) -> ApiResult<()> {
    let is_special = |character: char| matches!(character, '/' | ',') || character.is_control();
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(is_special) {
        return Ok(());
    }
    let problem = format!("must be 1 to {MAX_NAME_BYTES} bytes, without slashes, commas and control characters");
    Err(ApiError::invalid(param, problem))
}

/// One model; the fields after `max_model_len` are only there for adapters.
#[derive(Debug, Serialize)]
pub(crate) struct ModelCard {
    pub(crate) id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<String>,
    max_model_len: usize,
    #[serde(flatten)]
    adapter: Option<AdapterFields>,
}

#[derive(Debug, Serialize)]
struct AdapterFields {
    generation: u64,
    max_rank: usize,
    resident: bool,
    pinned: bool,
    /// What its rootstock.toml sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    defaults: Vec<&'static str>,
}

/// Names of what the defaults set.
fn set(defaults: &AdapterDefaults) -> Vec<&'static str> {
    let sampling = &defaults.sampling;
    let all = [
        ("system_prompt", defaults.system_prompt.is_some()),
        ("chat_template", defaults.chat_template.is_some()),
        ("temperature", sampling.temperature.is_some()),
        ("top_p", sampling.top_p.is_some()),
        ("top_k", sampling.top_k.is_some()),
        ("min_p", sampling.min_p.is_some()),
        ("presence_penalty", sampling.presence_penalty.is_some()),
        ("frequency_penalty", sampling.frequency_penalty.is_some()),
        ("repetition_penalty", sampling.repetition_penalty.is_some()),
        ("seed", sampling.seed.is_some()),
        ("max_tokens", sampling.max_tokens.is_some()),
        ("stop", sampling.stop.is_some()),
    ];
    all.into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect()
}

/// An adapter that is not served, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    id: String,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(crate) fn new(name: &str, error: &AdapterError) -> Self {
        Self {
            id: name.to_owned(),
            code: error.code.as_str(),
            message: error.to_string(),
        }
    }
}

impl ModelCard {
    pub(crate) fn base(name: &str, created: u64, max_model_len: usize) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created,
            owned_by: "rootstock",
            root: name.to_owned(),
            parent: None,
            max_model_len,
            adapter: None,
        }
    }

    pub(crate) fn adapter(info: &AdapterInfo, base: &str, max_model_len: usize) -> Self {
        Self {
            id: info.name.to_string(),
            created: info.created,
            root: info.path.display().to_string(),
            parent: Some(base.to_owned()),
            adapter: Some(AdapterFields {
                generation: info.generation,
                max_rank: info.max_rank,
                resident: info.resident,
                pinned: info.pinned,
                defaults: set(&info.defaults),
            }),
            ..Self::base(&info.name, info.created, max_model_len)
        }
    }
}

/// All models.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
    /// Adapters that were refused, for as long as nothing of their name is served.
    refused: Vec<Refusal>,
}

impl ModelList {
    pub(crate) fn new(data: Vec<ModelCard>, refused: Vec<Refusal>) -> Self {
        Self {
            object: "list",
            data,
            refused,
        }
    }
}
