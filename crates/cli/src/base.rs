//! A base model brought up: checkpoint, native runner, engine, adapter store, tokenizer and template. What `serve`
//! hands to the server, and what `generate` and `chat` drive directly.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rootstock_engine::adapters::{AdapterStore, StoreSettings, Watcher};
use rootstock_engine::native::{NativeRunner, NativeSettings};
use rootstock_engine::{Engine, Event, FinishReason, Graft, Request, Runner, Usage};
use rootstock_model::adapter::{AdapterDefaults, AdapterLimits};
use rootstock_model::text::{ChatTemplate, Markers, TextStream, TokenId, Tokenizer};
use rootstock_model::{Checkpoint, ContentHash};
use rootstock_server::{ServingBase, with_system_prompt};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tracing::info;

use crate::settings::{BaseSettings, GenerationSettings, Settled};

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

    /// Generates on one adapter or the base, handing out text as it becomes final.
    ///
    /// # Errors
    /// The prompt does not fit, a step fails, or `on_text` does.
    pub async fn generate(&self, call: Call<'_>, mut on_text: impl FnMut(&str) -> Result<()>) -> Result<Completion> {
        let settled = call.settings.settle(&call.held.defaults.sampling);
        let stream = TextStream::new(self.tokenizer.clone(), settled.stop.clone(), true);
        let mut stream = if call.continues { stream.continuing() } else { stream };
        let mut completion = Completion::of(call.prompt.len());
        let mut events = self.submit(call, settled)?;
        while let Some(event) = events.recv().await {
            match event {
                Event::Started { cached_tokens } => completion.usage.cached_tokens = cached_tokens,
                Event::PromptLogprobs(_) => {}
                Event::Token { id, .. } => {
                    let update = stream.push(id);
                    on_text(&update.text)?;
                    completion.text.push_str(&update.text);
                    completion.usage.completion_tokens += 1;
                    if update.stopped.is_some() {
                        // Dropping the receiver is what ends the generation.
                        return Ok(completion);
                    }
                }
                Event::Finished { reason, usage } => {
                    let rest = stream.finish();
                    on_text(&rest)?;
                    completion.text.push_str(&rest);
                    completion.usage = usage;
                    if reason == FinishReason::Length {
                        completion.finish_reason = "length";
                    }
                    return Ok(completion);
                }
                Event::Failed(error) => return Err(error).context("the generation failed"),
            }
        }
        bail!("the engine stopped before the generation ended")
    }

    fn submit(&self, call: Call<'_>, settled: Settled) -> Result<UnboundedReceiver<Event>> {
        let (events, received) = mpsc::unbounded_channel();
        self.engine.submit(Request {
            prompt: call.prompt,
            grafts: call.held.grafts,
            sampling: settled.sampling,
            max_tokens: settled.max_tokens,
            stop_tokens: self.tokenizer.end_tokens().to_vec(),
            logprobs: None,
            prompt_logprobs: None,
            tenant: Arc::from("local"),
            events,
        })?;
        Ok(received)
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

/// An adapter for the length of a generation.
#[derive(Default)]
pub struct Held {
    grafts: Vec<Graft>,
    /// What it sets where nobody else does.
    pub defaults: Arc<AdapterDefaults>,
}

/// One generation.
pub struct Call<'a> {
    /// Prompt.
    pub prompt: Vec<TokenId>,
    /// Whether the text goes on where the prompt's ends: a completion, not a reply.
    pub continues: bool,
    /// Adapter, if any.
    pub held: Held,
    /// How tokens are chosen and when it ends.
    pub settings: &'a GenerationSettings,
}

/// What came of a generation.
#[derive(Debug)]
pub struct Completion {
    /// Text without any stop text.
    pub text: String,
    /// As the API spells it.
    pub finish_reason: &'static str,
    /// Tokens.
    pub usage: Usage,
}

impl Completion {
    /// Nothing yet, of a prompt of so many tokens; ended by a stop unless it turns out otherwise.
    fn of(prompt_tokens: usize) -> Self {
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        Self {
            text: String::new(),
            finish_reason: "stop",
            usage,
        }
    }
}
