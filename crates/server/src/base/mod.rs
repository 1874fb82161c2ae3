//! The base that is served and all that belongs to it, as one value. A request takes it once, at its start, and holds it to
//! its end: a base that is replaced serves whoever began on it, and is gone with the last of them.

mod current;
mod replace;
mod templates;

use std::sync::Arc;

use parking_lot::Mutex;
use rootstock_engine::Engine;
use rootstock_engine::adapters::{AdapterInfo, AdapterStore, Watcher};
use rootstock_model::ContentHash;
use rootstock_model::adapter::AdapterError;
use rootstock_model::text::{ChatTemplate, Markers, TokenId, Tokenizer};

pub(crate) use current::Bases;
use current::Past;
pub use replace::{BaseError, BaseErrorCode, BaseLoader, BaseRequest};
pub(crate) use replace::{Replaced, Replacement, replace};
use templates::Templates;

use crate::wire::options::Bounds;

/// A base model that can be served, with its adapters.
pub struct ServingBase {
    /// Id of the base in `model` and `/v1/models`.
    pub name: String,
    /// Hash of its weights.
    pub hash: ContentHash,
    /// Runs requests.
    pub engine: Engine,
    /// Adapters by name, checked against this base.
    pub adapters: AdapterStore,
    /// Keeps the adapters in step with a folder.
    pub watcher: Option<Watcher>,
    /// Of the base.
    pub tokenizer: Arc<Tokenizer>,
    /// Of the base; without one, chat is refused where an adapter brings none of its own.
    pub chat_template: Option<ChatTemplate>,
    /// Special tokens that templates of adapters refer to.
    pub markers: Markers,
    /// Longest sequence in tokens.
    pub max_context: usize,
}

/// A [`ServingBase`] at work.
pub(crate) struct Base {
    pub(crate) name: Arc<str>,
    pub(crate) hash: ContentHash,
    pub(crate) engine: Engine,
    pub(crate) adapters: AdapterStore,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) templates: Templates,
    pub(crate) max_context: usize,
    pub(crate) bounds: Bounds,
    /// Bytes of the longest token.
    pub(crate) longest_token: usize,
    /// Until the base is replaced.
    watcher: Mutex<Option<Watcher>>,
    past: Arc<Mutex<Past>>,
}

impl Base {
    /// `choices` are the most of one request; the counters go to `past` with the end of the base.
    fn new(base: ServingBase, choices: usize, past: Arc<Mutex<Past>>) -> Self {
        Self {
            bounds: Bounds {
                vocab_size: base.tokenizer.vocab_size(),
                choices,
            },
            longest_token: longest_token(&base.tokenizer),
            templates: Templates::new(base.chat_template, base.markers),
            name: base.name.into(),
            hash: base.hash,
            engine: base.engine,
            adapters: base.adapters,
            tokenizer: base.tokenizer,
            max_context: base.max_context,
            watcher: Mutex::new(base.watcher),
            past,
        }
    }

    /// Why an adapter of that name is not served, if it was refused.
    pub(crate) fn refusal(&self, name: &str) -> Option<AdapterError> {
        let refused = self.adapters.refused();
        refused
            .into_iter()
            .find_map(|(refused, error)| (refused == name).then_some(error))
    }

    /// Why the watcher has refused the adapter at that place already.
    fn refusal_by_watcher(&self, info: &AdapterInfo) -> Option<AdapterError> {
        let watcher = self.watcher.lock();
        let watched = watcher.as_ref().is_some_and(|watcher| watcher.watches(&info.path));
        self.refusal(&info.name).filter(|_| watched)
    }

    /// Every adapter that was refused and is not served in an earlier form, by name.
    pub(crate) fn refusals(&self) -> Vec<(String, AdapterError)> {
        let mut refusals = self.adapters.refused();
        refusals.retain(|(name, _)| self.adapters.get(name).is_none());
        refusals
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let counted = (self.engine.stats(), self.adapters.stats());
        self.past.lock().add(counted.0, counted.1);
    }
}

fn longest_token(tokenizer: &Tokenizer) -> usize {
    let lengths = (0..tokenizer.vocab_size()).filter_map(|id| Some(tokenizer.token_bytes(id as TokenId)?.len()));
    lengths.max().unwrap_or(0)
}
