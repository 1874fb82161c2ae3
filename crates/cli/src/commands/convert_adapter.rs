//! `rootstock convert-adapter`: a PEFT folder becomes a GGUF file, a GGUF file a PEFT folder.

use std::io::{self, Write};

use anyhow::{Result, anyhow};
use rootstock_model::Checkpoint;
use rootstock_model::adapter::AdapterError;
use rootstock_model::adapter::save::{GgufLora, PeftFolder};
use serde_json::json;

use super::merge::loaded;
use crate::args::ConvertAdapterArgs;
use crate::settings::{ConvertSettings, Converted};

/// Converts and writes.
///
/// # Errors
/// The settings, the model or the adapter cannot be used, the adapter has what the other container cannot hold, or it cannot be
/// written.
pub fn run(args: ConvertAdapterArgs) -> Result<()> {
    let settings = ConvertSettings::new(&args)?;
    let checkpoint = Checkpoint::open(&settings.model.path)?;
    let adapter = loaded(&settings.input, &checkpoint)?;
    let shown = settings.input.path.display();
    let refused = |error: AdapterError| anyhow!("{shown}: {error} ({})", error.code.as_str());
    let (output, kind, tensors) = match &settings.output {
        Converted::Gguf(path, stored) => {
            let file = GgufLora::of(&adapter, checkpoint.spec(), *stored).map_err(refused)?;
            file.write(path)?;
            (path, "gguf", file.tensors())
        }
        Converted::Peft(dir) => {
            let mut folder = PeftFolder::of(&adapter, checkpoint.spec()).map_err(refused)?;
            folder.base_model.get_or_insert_with(|| settings.model.name.clone());
            folder.write(dir, &card(&settings))?;
            (dir, "peft", 2 * folder.pairs.len())
        }
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(
            out,
            "{:#}",
            json!({"input": settings.input.path, "output": output, "format": kind, "tensors": tensors})
        )?,
        false => writeln!(out, "{}: {tensors} tensors", output.display())?,
    }
    Ok(())
}

fn card(settings: &ConvertSettings) -> String {
    format!(
        "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- rootstock\n---\n\n# {}\n\nMade of a GGUF adapter with \
         rootstock {}.\n",
        json!(settings.model.name),
        settings.input.name,
        env!("CARGO_PKG_VERSION")
    )
}
