//! `rootstock merge`: adapters become part of a model's weights, written as a Hugging Face folder or a GGUF file.

mod summary;
mod written;

use std::io::{self, Write};

use anyhow::{Result, anyhow};
use rootstock_model::adapter::{Adapter, AdapterDefaults, AdapterLimits, Base, SamplingDefaults, load_adapter};
use rootstock_model::{Checkpoint, GgufFile, ModelFolder};
use rootstock_optimize::merge::{Merged, Part};

use self::summary::{Summary, card};
use crate::args::MergeArgs;
use crate::models::Located;
use crate::settings::{MergeSettings, MergedFile};

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
    let written = match &settings.output {
        MergedFile::Folder(dir, float) => {
            let mut folder = ModelFolder::with(&checkpoint, merged.additions())?;
            template.iter().for_each(|template| folder.set_chat_template(template));
            written::folder(&folder, &merged, (dir, *float), &card(&settings))?
        }
        MergedFile::Gguf(path, recipe) => {
            let mut file = GgufFile::with(&checkpoint, merged.additions())?;
            template.iter().for_each(|template| file.set_chat_template(template));
            written::gguf(&file, &merged, (path, *recipe), settings.threads)?
        }
    };
    let summary = Summary {
        settings: &settings,
        written,
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
