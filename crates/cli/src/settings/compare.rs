//! What `compare` puts side by side and how: arguments checked before anything is loaded.

use std::path::{Path, PathBuf};

use super::evaluation::tell_apart;
use super::{Result, usage, within, worker_threads};
use crate::args::{Activations, CompareArgs, ModelArgs};
use crate::models::{Located, Models, locate_adapter};
use crate::side_by_side::Cut;

/// What `compare` runs with.
#[derive(Debug, Clone)]
pub struct CompareSettings {
    /// What all others are measured against.
    pub source: Contender,
    /// At least one.
    pub others: Vec<Contender>,
    /// Text to compare on.
    pub text: PathBuf,
    /// How it is cut.
    pub cut: Cut,
    /// Worker threads.
    pub threads: usize,
    /// Precision of the activations.
    pub activations: Activations,
    /// Whether speeds are measured, on activations as they are served.
    pub speed: bool,
    /// Mean KL that may not be exceeded.
    pub max_kl: Option<f64>,
}

/// A model, or an adapter on it.
#[derive(Debug, Clone)]
pub struct Contender {
    /// As the table calls it.
    pub name: String,
    /// GGUF file or Hugging Face folder.
    pub model: Located,
    /// On it, if any.
    pub adapter: Option<Located>,
}

impl CompareSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// Fewer than two models, one that is not there, no text, or a number out of range.
    pub fn new(args: &CompareArgs) -> Result<Self> {
        let mut contenders = contenders(args)?;
        if contenders.len() < 2 {
            let count = contenders.len();
            return Err(usage(format!(
                "expected two models at least, the source first, got {count}: rootstock compare SOURCE OTHER --text FILE"
            )));
        }
        let others = contenders.split_off(1);
        Ok(Self {
            source: contenders.remove(0),
            others,
            text: text(args)?,
            cut: Cut {
                length: within("length", args.length, 2, 1 << 24)?,
                most: within("tokens", args.tokens, 2, 1 << 40)?,
            },
            threads: worker_threads(args.threads)?,
            activations: args.activations,
            speed: !args.no_speed,
            max_kl: args.max_kl.map(|most| within("max-kl", most, 0.0, 1e3)).transpose()?,
        })
    }
}

fn contenders(args: &CompareArgs) -> Result<Vec<Contender>> {
    let models = Models::new(&ModelArgs {
        model: None,
        models_dir: args.models_dir.clone(),
        catalog: args.catalog.clone(),
    })?;
    let given: Vec<&String> = args.model.iter().chain(&args.models).collect();
    let found = given
        .iter()
        .map(|given| contender(given, &models, args.adapters.as_deref()));
    let mut contenders = found.collect::<Result<Vec<_>>>()?;
    let names = contenders.iter_mut().map(|contender| &mut contender.name);
    tell_apart(names.zip(given.into_iter().cloned()).collect());
    Ok(contenders)
}

/// The model of `MODEL`, or model and adapter of `MODEL+ADAPTER`; the path of either may have a + of its own.
fn contender(given: &str, models: &Models, adapters: Option<&Path>) -> Result<Contender> {
    let whole = models.locate(Some(given));
    let mut found = whole.map(alone);
    for (at, _) in given.match_indices('+') {
        if found.is_ok() {
            break;
        }
        if let Ok(model) = models.locate(Some(&given[..at])) {
            let adapter = locate_adapter(Path::new(&given[at + 1..]), adapters);
            found = adapter.map(|adapter| grafted(model, adapter));
        }
    }
    found
}

fn alone(model: Located) -> Contender {
    Contender {
        name: model.name.clone(),
        model,
        adapter: None,
    }
}

fn grafted(model: Located, adapter: Located) -> Contender {
    Contender {
        name: format!("{} + {}", model.name, adapter.name),
        adapter: Some(adapter),
        ..alone(model)
    }
}

fn text(args: &CompareArgs) -> Result<PathBuf> {
    let Some(text) = &args.text else {
        return Err(usage("--text is missing; give a file of text to compare on"));
    };
    match text.is_file() {
        true => Ok(text.clone()),
        false => Err(usage(format!("--text: there is no file {}", text.display()))),
    }
}
