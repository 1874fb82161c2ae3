//! A base model brought up: checkpoint, native runner, engine, adapter store, tokenizer and template. What `serve`
//! hands to the server, and what `generate` and `chat` drive directly.

mod generation;
mod scoring;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rootstock_engine::adapters::{AdapterStore, StoreSettings, Watcher};
use rootstock_engine::native::{NativeRunner, NativeSettings};
use rootstock_engine::{Engine, Graft, Runner};
use rootstock_model::adapter::{AdapterDefaults, AdapterLimits};
use rootstock_model::text::{ChatTemplate, Markers, TokenId, Tokenizer};
use rootstock_model::{Checkpoint, ContentHash};
use rootstock_server::{ServingBase, with_system_prompt};
use serde_json::Value;
use tracing::info;

use crate::settings::BaseSettings;
pub use generation::{Call, Completion, Generation, Held};
pub use scoring::{Score, Scoring};

/// A running base.
pub struct Base {
    /// Of its weights.
    pub hash: ContentHash,
    /// Runs requests.
    pub engine: Engine,
    /// Adapters by name.
    pub adapters: AdapterStore,
    /// Of the base.
    pub tokenizer: Arc<Tokenizer>,
    /// Of the base, if it has one.
    pub chat_template: Option<ChatTemplate>,
    /// Special tokens that templates of adapters refer to.
    pub markers: Markers,
    /// Longest sequence in tokens.
    pub max_context: usize,
}

impl Base {
    /// Opens the model, packs its weights and starts the engine.
    ///
    /// # Errors
    /// The files are not a model this build runs, or the KV memory holds no sequence.
    pub fn start(settings: &BaseSettings) -> Result<Self> {
        let started = Instant::now();
        let checkpoint = Checkpoint::open(&settings.model)?;
        let trained = checkpoint.spec().context_length;
        let max_context = settings.max_context.map_or(trained, |length| length.min(trained));
        let runner = NativeRunner::new(
            &checkpoint,
            NativeSettings {
                threads: settings.threads,
                max_context,
                kv_bytes: settings.kv_bytes,
                activations: settings.activations,
                weights: settings.weights,
                four_bit_output: settings.four_bit_output,
            },
        )?;
        let (hash, simd) = (checkpoint.hash(), runner.isa());
        let adapters = AdapterStore::new(StoreSettings {
            memory_budget: settings.adapter_bytes,
            limits: AdapterLimits {
                max_rank: settings.max_rank,
                max_bytes: settings.adapter_bytes as u64,
            },
            base: Arc::new(checkpoint.spec().clone()),
            base_hash: hash,
            preparer: runner.preparer(),
        });
        let base = Self {
            hash,
            adapters,
            tokenizer: Arc::new(checkpoint.tokenizer()?),
            chat_template: checkpoint.chat_template()?,
            markers: checkpoint.markers()?,
            max_context,
            engine: Engine::start(Box::new(runner), settings.engine),
        };
        info!(
            model = %settings.model.display(),
            base_hash = %hash,
            max_context,
            simd,
            threads = settings.threads,
            activations = ?settings.activations,
            weights = ?settings.weights,
            seconds = started.elapsed().as_secs_f32(),
            "base loaded"
        );
        Ok(base)
    }

    /// What the server serves.
    pub fn into_serving(self, name: String, watcher: Option<Watcher>) -> ServingBase {
        ServingBase {
            name,
            hash: self.hash,
            engine: self.engine,
            adapters: self.adapters,
            watcher,
            tokenizer: self.tokenizer,
            chat_template: self.chat_template,
            markers: self.markers,
            max_context: self.max_context,
        }
    }

    /// As [`Self::start`], on a thread of its own that ends with it: what a thread that lives on has allocated, the allocator
    /// gives back only when that thread allocates again, and a base that is replaced should be gone at once.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_apart(settings: &BaseSettings) -> Result<Self> {
        let start = std::thread::Builder::new().name("base-loader".to_owned());
        std::thread::scope(|scope| {
            let loading = start.spawn_scoped(scope, || Self::start(settings))?;
            loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The prompt that continues a conversation, with an adapter's own template and system prompt where it has them.
    ///
    /// # Errors
    /// There is no template, or it refuses the messages.
    pub fn chat_prompt(&self, messages: &[Value], defaults: &AdapterDefaults) -> Result<Vec<TokenId>> {
        let own = match &defaults.chat_template {
            Some(source) => Some(ChatTemplate::new(source, self.markers.clone())?),
            None => None,
        };
        let Some(template) = own.as_ref().or(self.chat_template.as_ref()) else {
            bail!("this model has no chat template; use `rootstock generate` without --chat");
        };
        let messages: Cow<'_, [Value]> = with_system_prompt(messages, defaults.system_prompt.as_deref());
        let text = template.render(&messages, true, &serde_json::Map::new())?;
        // The template spells out every special token, so the tokenizer adds none.
        Ok(self.tokenizer.encode(&text, false)?)
    }

    /// The prompt of a plain text.
    ///
    /// # Errors
    /// The tokenizer fails, or the text is empty.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        let ids = self.tokenizer.encode(text, true)?;
        if ids.is_empty() {
            bail!("the prompt is empty");
        }
        Ok(ids)
    }

    /// Registers the adapters of a folder and keeps in step with it until the watcher is dropped.
    ///
    /// # Errors
    /// The folder cannot be read or watched.
    pub fn watch(&self, dir: &Path) -> Result<Watcher> {
        let watcher = Watcher::start(self.adapters.clone(), dir.to_owned())
            .with_context(|| format!("--adapters: {} cannot be watched", dir.display()))?;
        let stats = self.adapters.stats();
        info!(folder = %dir.display(), served = stats.registered, refused = stats.refusals, "adapters registered");
        Ok(watcher)
    }

    /// Holds an adapter's weights and defaults; neither for the base.
    ///
    /// # Errors
    /// The adapter is unknown or refused.
    pub async fn hold(&self, adapter: Option<(&str, f32)>) -> Result<Held> {
        let Some((name, scale)) = adapter else {
            return Ok(Held::default());
        };
        let leases = self.adapters.acquire(&[name]).await?;
        Ok(Held {
            defaults: leases.first().map(|lease| lease.defaults().clone()).unwrap_or_default(),
            grafts: leases.into_iter().map(|lease| Graft { lease, scale }).collect(),
        })
    }
}
