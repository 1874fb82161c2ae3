//! The model list: the base, and each adapter as a model whose parent is the base.

use rootstock_engine::adapters::AdapterInfo;
use serde::Serialize;

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
}

impl ModelList {
    pub(crate) fn new(data: Vec<ModelCard>) -> Self {
        Self { object: "list", data }
    }
}
