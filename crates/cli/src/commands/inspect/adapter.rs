//! An adapter: what it records, and with a base whether it is accepted.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use rootstock_model::Checkpoint;
use rootstock_model::adapter::{
    AdapterDescription, AdapterError, AdapterKind, AdapterLimits, Base, describe_adapter, load_adapter,
};
use serde_json::{Map, Value};

use super::inspection::{Inspection, Refusal, Tensor};
use super::licence::licence;
use crate::args::ModelArgs;
use crate::models::Models;

/// All there is to say of an adapter.
///
/// # Errors
/// The base cannot be opened.
pub fn inspect(path: &Path, base: &ModelArgs) -> Result<Inspection> {
    let mut inspection = Inspection::default();
    inspection.say("kind", "adapter");
    inspection.say("path", path.display().to_string());
    let described = describe_adapter(path).map(|description| describe(&description, &mut inspection));
    if path.is_dir() {
        inspection.say("licence", licence(path));
    }
    let checked = match (described, &base.model) {
        (Ok(()), Some(model)) => check(path, &Models::new(base)?.locate(Some(model))?.path, &mut inspection)?,
        (described, _) => described,
    };
    inspection.refusal = checked.err().map(|error| Refusal {
        code: Some(error.code.as_str()),
        reason: error.message,
    });
    Ok(inspection)
}

fn describe(description: &AdapterDescription, inspection: &mut Inspection) {
    inspection.say(
        "kind",
        match description.kind {
            AdapterKind::Peft => "adapter, PEFT folder",
            AdapterKind::AdapterHub => "adapter, AdapterHub folder",
            AdapterKind::Gguf => "adapter, GGUF file",
        },
    );
    inspection.say("base", description.base_model.as_deref());
    inspection.tensors = description.tensors.iter().map(Tensor::from).collect();
    let ranks = ranks(&inspection.tensors);
    inspection.say("scale", scale(&description.settings, &ranks));
    inspection.say("ranks", ranks.into_iter().collect::<Vec<_>>());
    let elements = description
        .tensors
        .values()
        .map(|info| info.shape.iter().product::<usize>());
    inspection.say("parameters", elements.sum::<usize>());
    let bytes = inspection.tensors.iter().map(|tensor| tensor.bytes);
    inspection.say("bytes", bytes.sum::<u64>());
    inspection.say("settings", description.settings.clone());
}

/// Reads the adapter whole, as a server does.
fn check(path: &Path, model: &Path, inspection: &mut Inspection) -> Result<Result<(), AdapterError>> {
    let checkpoint = Checkpoint::open(model)?;
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let loaded = load_adapter(path, base, AdapterLimits::NONE);
    inspection.say("accepted", loaded.is_ok());
    Ok(loaded.map(|adapter| {
        inspection.say("effects", adapter.effects.len());
        inspection.say("hash", adapter.hash.to_string());
    }))
}

/// Ranks of pairs and widths of bottlenecks, by the outer dimension of the maps that lead into them.
fn ranks(tensors: &[Tensor]) -> BTreeSet<usize> {
    let leads_in = |tensor: &&Tensor| {
        let name = tensor.name.to_ascii_lowercase();
        let pair = name.contains("lora_a") || name.contains("lora_embedding_a");
        pair || (name.contains("adapter_down") && name.ends_with("weight"))
    };
    let found = tensors.iter().filter(leads_in);
    found.filter_map(|tensor| tensor.shape.first().copied()).collect()
}

/// The factor on every pair, where there is one for all.
fn scale(settings: &Map<String, Value>, ranks: &BTreeSet<usize>) -> Option<f64> {
    let number = |name: &str| settings.get(name).and_then(Value::as_f64);
    let patterns = ["rank_pattern", "alpha_pattern"];
    if ranks.len() != 1 || patterns.iter().any(|name| settings.contains_key(*name)) {
        return None;
    }
    let rank = *ranks.first()? as f64;
    let alpha = number("lora_alpha").or_else(|| number("adapter.lora.alpha"))?;
    match settings.get("use_rslora") {
        Some(Value::Bool(true)) => Some(alpha / rank.sqrt()),
        _ => Some(alpha / rank),
    }
}
