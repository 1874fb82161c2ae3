//! Runs the models: the source stays in memory, the others come one after the other.

use anyhow::{Context, Result};
use rootstock_engine::native::ActivationPrecision;
use rootstock_model::Checkpoint;
use rootstock_model::adapter::{AdapterLimits, Base, inspect_adapter};
use rootstock_optimize::divergence::{Comparison, Mean};

use crate::progress::{Progress, Unit};
use crate::settings::{CompareSettings, Contender, activation_precision};
use crate::side_by_side::{DECODED, Speed, Subject, SubjectSettings, Windows, compare, refused, speed};

/// A model or an adapter on one, and what is known of it by itself.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As the table calls it.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The adapter's, if it is one.
    pub adapter: Option<String>,
    /// Bytes of the files with weights, and of an adapter's tensors.
    pub bytes: u64,
    /// Of the model, without an adapter.
    pub bits_per_weight: f64,
    /// As served; none where it was not asked for or the model has no room for it.
    pub speed: Option<Speed>,
}

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose it is.
    pub entry: Entry,
    /// Perplexity on the text.
    pub perplexity: Mean,
    /// Distance from the source; none of the source itself.
    pub comparison: Option<Comparison>,
}

/// A row per model, the source first.
///
/// # Errors
/// A model, an adapter or the text cannot be used.
pub fn measure(settings: &CompareSettings, text: &str) -> Result<Vec<Row>> {
    let checkpoint = Checkpoint::open(&settings.source.model.path)?;
    let windows = Windows::of(text, &checkpoint.tokenizer()?, settings.cut)
        .with_context(|| format!("--text: {}", settings.text.display()))?;
    let contest = Contest { settings, windows };
    let (entry, mut source) = contest.enter(&settings.source, &checkpoint)?;
    let mut own = None;
    let mut rows = Vec::new();
    for other in &settings.others {
        let (entry, mut subject) = contest.enter(other, &Checkpoint::open(&other.model.path)?)?;
        let comparison = contest.compare(&mut source, &mut subject)?;
        own = Some(comparison.source);
        rows.push(Row {
            entry,
            perplexity: comparison.other,
            comparison: Some(comparison),
        });
    }
    let own = own.map(|perplexity| Row {
        entry,
        perplexity,
        comparison: None,
    });
    rows.splice(0..0, own);
    Ok(rows)
}

struct Contest<'a> {
    settings: &'a CompareSettings,
    windows: Windows,
}

impl Contest<'_> {
    /// Brings a model into memory; its speed is measured before, on activations as they are served.
    fn enter(&self, contender: &Contender, checkpoint: &Checkpoint) -> Result<(Entry, Subject)> {
        let adapter = contender.adapter.as_ref();
        let entry = Entry {
            name: contender.name.clone(),
            model: contender.model.name.clone(),
            adapter: adapter.map(|adapter| adapter.name.clone()),
            bytes: checkpoint.file_bytes() + adapter_bytes(contender, checkpoint)?,
            bits_per_weight: checkpoint.bits_per_weight(),
            speed: self.speed(contender, checkpoint)?,
        };
        let precision = activation_precision(self.settings.activations);
        let subject = self.subject(contender, checkpoint, (precision, self.windows.longest()))?;
        Ok((entry, subject))
    }

    fn speed(&self, contender: &Contender, checkpoint: &Checkpoint) -> Result<Option<Speed>> {
        let most = checkpoint.spec().context_length.saturating_sub(DECODED);
        let mut prompt = self.windows.iter().next().unwrap_or_default();
        prompt.truncate(most);
        if !self.settings.speed || prompt.is_empty() {
            return Ok(None);
        }
        let room = (ActivationPrecision::Auto, prompt.len() + DECODED);
        let mut subject = self.subject(contender, checkpoint, room)?;
        Ok(Some(speed(&mut subject, &prompt)?))
    }

    fn subject(
        &self,
        contender: &Contender,
        checkpoint: &Checkpoint,
        (activations, context): (ActivationPrecision, usize),
    ) -> Result<Subject> {
        let settings = SubjectSettings {
            name: &contender.name,
            adapter: contender.adapter.as_ref().map(|adapter| adapter.path.as_path()),
            context,
            threads: self.settings.threads,
            activations,
        };
        Subject::new(checkpoint, settings)
    }

    fn compare(&self, source: &mut Subject, other: &mut Subject) -> Result<Comparison> {
        eprintln!("{}", other.name());
        let progress = Progress::start(other.name(), self.windows.predicted(), Unit::Tokens);
        compare(source, other, &self.windows, |tokens| progress.reached(tokens))
    }
}

/// Bytes of an adapter's tensors; none without one.
fn adapter_bytes(contender: &Contender, checkpoint: &Checkpoint) -> Result<u64> {
    let Some(adapter) = &contender.adapter else {
        return Ok(0);
    };
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let summary = inspect_adapter(&adapter.path, base, AdapterLimits::NONE);
    match summary {
        Ok(summary) => Ok(summary.tensor_bytes),
        Err(error) => Err(refused(&contender.name, &adapter.path, &error)),
    }
}
