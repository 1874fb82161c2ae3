//! Who is evaluated: a base that runs, and its adapters, all in memory at once.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rootstock_model::text::ChatTemplate;
use rootstock_train::dataset::{Encoder, EncoderSettings, Truncation, end_of_text};

use super::asking::Answer;
use super::examples::Examples;
use super::report::Row;
use crate::base::{Base, Held};
use crate::models::Located;
use crate::settings::{BaseSettings, ByteSize, EvalSettings};

/// A base and who runs on it.
pub struct Team {
    /// Runs all of them.
    pub base: Base,
    /// In the order of the table.
    pub candidates: Vec<Candidate>,
    model: String,
}

/// A base alone, or an adapter on it.
pub struct Candidate {
    adapter: Option<String>,
    /// The adapter's weights, if it is one.
    pub held: Held,
    /// Puts examples into tokens, with the adapter's own chat template if it has one.
    pub encoder: Arc<Encoder>,
}

impl Team {
    /// Loads a model and the adapters.
    ///
    /// # Errors
    /// One of them cannot be used, or they do not fit into memory together.
    pub async fn start(model: &BaseSettings, settings: &EvalSettings) -> Result<Self> {
        let base = Base::start(model)?;
        let max_length = settings.max_length.unwrap_or(base.max_context);
        if max_length > base.max_context {
            let (name, most) = (&model.name, base.max_context);
            bail!("--max-length: expected {most} at most, the longest sequence of {name}, got {max_length}");
        }
        let encoding = EncoderSettings {
            max_length,
            end: end_of_text(&base.tokenizer, &base.markers),
            truncation: Truncation::PromptStart,
        };
        let encoder = Encoder::new(base.tokenizer.clone(), base.chat_template.clone(), encoding)?;
        let encoder = Arc::new(encoder);
        let mut team = Self {
            base,
            candidates: Vec::new(),
            model: model.name.clone(),
        };
        if settings.bases {
            team.candidates.push(Candidate {
                adapter: None,
                held: Held::default(),
                encoder: encoder.clone(),
            });
        }
        team.load(&settings.adapters)?;
        for adapter in &settings.adapters {
            let candidate = team.candidate(adapter, &encoder).await?;
            team.candidates.push(candidate);
        }
        Ok(team)
    }

    /// Brings all adapters into memory.
    fn load(&self, adapters: &[Located]) -> Result<()> {
        let store = &self.base.adapters;
        for Located { name, path } in adapters {
            let load = store.load(name, path);
            load.map_err(|error| {
                let (path, model, code) = (path.display(), &self.model, error.code.as_str());
                anyhow::anyhow!("--adapter {path} on {model}: {error} ({code})")
            })?;
        }
        // Those that others have pushed out would be waited for without end.
        let resident = |adapter: &Located| store.get(&adapter.name).is_some_and(|info| info.resident);
        match adapters.iter().all(resident) {
            true => Ok(()),
            false => {
                let budget = ByteSize(store.stats().budget_bytes as u64);
                bail!(
                    "--adapter-memory: the adapters do not fit into {budget} together; give more, or evaluate fewer at once"
                )
            }
        }
    }

    async fn candidate(&self, adapter: &Located, of_base: &Arc<Encoder>) -> Result<Candidate> {
        let held = self.base.hold(Some((&adapter.name, 1.0))).await?;
        let encoder = match &held.defaults.chat_template {
            None => of_base.clone(),
            Some(source) => {
                let template = ChatTemplate::new(source, self.base.markers.clone())
                    .with_context(|| format!("the chat template of {}", adapter.path.display()))?;
                let (tokenizer, settings) = (of_base.tokenizer().clone(), of_base.settings().clone());
                Arc::new(Encoder::new(tokenizer, Some(template), settings)?)
            }
        };
        Ok(Candidate {
            adapter: Some(adapter.name.clone()),
            held,
            encoder,
        })
    }

    /// What the answers make of each candidate; `answers` are by example, then by candidate.
    pub fn rows(&self, examples: &Examples, answers: &[Answer]) -> Vec<Row> {
        let row = |(index, candidate): (usize, &Candidate)| {
            let own = answers.iter().skip(index).step_by(self.candidates.len());
            Row::new(&self.model, candidate.adapter.as_deref(), examples, own)
        };
        self.candidates.iter().enumerate().map(row).collect()
    }
}
