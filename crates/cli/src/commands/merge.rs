//! `rootstock merge`: adapters become part of a model's weights, written as a Hugging Face folder.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, anyhow};
use rootstock_model::adapter::{Adapter, AdapterDefaults, AdapterLimits, Base, SamplingDefaults, load_adapter};
use rootstock_model::checkpoint::Role;
use rootstock_model::{Checkpoint, ModelError, ModelFolder, SaveSettings, WeightSource};
use rootstock_optimize::merge::{Change, Merged, Part};
use rootstock_report::quantity::{bytes, significant};
use serde_json::{Value, json};

use crate::args::MergeArgs;
use crate::models::Located;
use crate::progress::{Progress, Unit};
use crate::settings::MergeSettings;

/// For adapters that become weights: those of a server have to share its memory.
const LIMITS: AdapterLimits = AdapterLimits {
    max_rank: 1 << 16,
    max_bytes: u64::MAX,
};

/// Merges and writes.
///
/// # Errors
/// The settings, the model or an adapter cannot be used, or the folder cannot be written.
pub fn run(args: MergeArgs) -> Result<()> {
    let settings = MergeSettings::new(&args)?;
    let checkpoint = Checkpoint::open(&settings.model.path)?;
    let parts = parts(&settings, &checkpoint)?;
    let template = template(&parts);
    let merged = Merged::new(&checkpoint, parts, settings.blend, settings.threads)?;
    let mut folder = ModelFolder::with(&checkpoint, merged.additions())?;
    if let Some(template) = template {
        folder.set_chat_template(&template);
    }
    let size = folder.weight_bytes(settings.float);
    let card = &card(&settings);
    let save = SaveSettings {
        float: settings.float,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card,
    };
    let source = Watched {
        source: &merged,
        progress: Progress::start("merging", size, Unit::Bytes),
        element: settings.float.bytes() as u64,
        done: Cell::new(0),
    };
    folder.write(&settings.output, &source, &save)?;
    drop(source);
    let summary = Summary {
        settings: &settings,
        tensors: folder.tensors(),
        bytes: size,
        changes: merged.into_changes(),
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", summary.json())?,
        false => write!(out, "{}", summary.text())?,
    }
    Ok(())
}

fn parts(settings: &MergeSettings, checkpoint: &Checkpoint) -> Result<Vec<Part>> {
    let parts = settings.adapters.iter().map(|(adapter, weight)| {
        Ok(Part {
            name: adapter.name.clone(),
            adapter: loaded(adapter, checkpoint)?,
            weight: *weight,
        })
    });
    parts.collect()
}

/// An adapter whole, checked against its base.
///
/// # Errors
/// It is refused.
pub fn loaded(adapter: &Located, checkpoint: &Checkpoint) -> Result<Adapter> {
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let refused = |error: rootstock_model::adapter::AdapterError| {
        anyhow!("{}: {error} ({})", adapter.path.display(), error.code.as_str())
    };
    load_adapter(&adapter.path, base, LIMITS).map_err(refused)
}

/// The chat template that the adapter brings. It belongs to a model; how to sample and a system prompt to who asks it. What
/// several adapters bring would contradict each other.
fn template(parts: &[Part]) -> Option<String> {
    let [only] = parts else {
        if parts
            .iter()
            .any(|part| *part.adapter.defaults != AdapterDefaults::default())
        {
            eprintln!(
                "nothing of the adapters' rootstock.toml is taken over: what several say would contradict each other"
            );
        }
        return None;
    };
    let defaults = &only.adapter.defaults;
    if defaults.system_prompt.is_some() || defaults.sampling != SamplingDefaults::default() {
        eprintln!(
            "system prompt and sampling of rootstock.toml have no place in a model's folder: send them with requests"
        );
    }
    defaults.chat_template.clone()
}

/// A source of weights that tells how far it is.
struct Watched<'a> {
    source: &'a dyn WeightSource,
    progress: Progress,
    /// Bytes of an element that is written.
    element: u64,
    done: Cell<u64>,
}

impl WeightSource for Watched<'_> {
    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let before = to.len();
        self.source.append(role, to)?;
        self.done
            .set(self.done.get() + (to.len() - before) as u64 * self.element);
        self.progress.reached(self.done.get());
        Ok(())
    }
}

/// What was done.
struct Summary<'a> {
    settings: &'a MergeSettings,
    tensors: usize,
    bytes: u64,
    changes: Vec<Change>,
}

impl Summary<'_> {
    fn json(&self) -> Value {
        let adapters = self.settings.adapters.iter();
        let changed = self.changes.iter();
        json!({
            "model": self.settings.model.name,
            "adapters": adapters.map(|(adapter, weight)| json!({"name": adapter.name, "weight": weight})).collect::<Vec<_>>(),
            "output": self.settings.output,
            "bytes": self.bytes,
            "tensors": self.tensors,
            "changed": changed.map(|change| json!({
                "tensor": change.tensor,
                "delta_norm": change.delta,
                "base_norm": change.base,
                "relative": change.relative(),
            })).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}: {}, {} of its tensors changed\n",
            self.settings.output.display(),
            bytes(self.bytes),
            self.changes.len()
        );
        let mut sorted: Vec<_> = self
            .changes
            .iter()
            .filter_map(|change| Some((change.relative()?, change)))
            .collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (relative, change) in sorted.iter().take(LARGEST) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {}: {} % of its length",
                change.tensor,
                significant(100.0 * relative)
            );
        }
        text
    }
}

/// Changes that are shown to people.
const LARGEST: usize = 3;

fn card(settings: &MergeSettings) -> String {
    let base = &settings.model.name;
    let name = settings.output.file_name().unwrap_or_default().to_string_lossy();
    let mut card = format!(
        "---\nbase_model: {}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- merge\n- rootstock\n---\n\n# {name}\n\n{base} \
         with these adapters in its weights, merged with rootstock {} ({:?}).\n\n| adapter | weight |\n|---|---|\n",
        json!(base),
        env!("CARGO_PKG_VERSION"),
        settings.blend,
    );
    for (adapter, weight) in &settings.adapters {
        let _ = writeln!(card, "| {} | {weight} |", adapter.name);
    }
    let quantized = settings
        .model
        .path
        .extension()
        .is_some_and(|extension| extension == "gguf");
    if Path::new(&settings.model.path).is_file() && quantized {
        card.push_str("\nThe base is a GGUF file: where that is quantized, its weights were decoded and stay what rounding has made of them.\n");
    }
    card
}
