//! Turns PEFT LoRA folders into GGUF adapters, so that llama-server can be measured on the same ones.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rootstock_model::Checkpoint;
use rootstock_model::adapter::save::{GgufLora, LoraType};
use rootstock_model::adapter::{AdapterLimits, Base, load_adapter};

/// Writes `NAME.gguf` for every folder `NAME` in `from`, an adapter of `model`; keeps those that are there.
///
/// # Errors
/// A folder holds something else, or a file cannot be written.
pub fn convert_all(model: &Path, from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let checkpoint = Checkpoint::open(model)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let folder = entry?.path();
        let Some(name) = folder.file_name().filter(|_| folder.is_dir()) else {
            continue;
        };
        let target = to.join(name).with_extension("gguf");
        if !target.exists() {
            convert(&checkpoint, &folder, &target).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(())
}

fn convert(checkpoint: &Checkpoint, folder: &Path, target: &Path) -> Result<()> {
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let limits = AdapterLimits {
        max_rank: usize::MAX,
        max_bytes: u64::MAX,
    };
    let adapter = load_adapter(folder, base, limits)?;
    Ok(GgufLora::of(&adapter, base.spec, LoraType::F16)?.write(target)?)
}
