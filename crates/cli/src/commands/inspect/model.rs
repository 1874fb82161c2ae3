//! A base model: its architecture, its files, and whether it is served.

use std::fs;
use std::path::Path;

use rootstock_formats::gguf::Gguf;
use rootstock_model::{Checkpoint, FeedForward, LayerSpec, ModelError};
use serde_json::Value;

use super::found::header;
use super::inspection::{Inspection, Refusal, Tensor};
use super::licence::licence;

/// All there is to say of a model.
pub fn inspect(path: &Path) -> Inspection {
    let mut inspection = Inspection::default();
    inspection.say("kind", kind(path));
    inspection.say("path", path.display().to_string());
    let outcome = Checkpoint::open(path).and_then(|checkpoint| describe(&checkpoint, &mut inspection));
    match outcome {
        Ok(()) if path.is_dir() => {
            inspection.say("quantization", quantization(path));
            inspection.say("licence", licence(path));
        }
        Ok(()) => {}
        Err(error) => {
            if let Some(gguf) = header(path) {
                describe_header(&gguf, &mut inspection);
            }
            inspection.refusal = Some(Refusal {
                code: None,
                reason: error.to_string(),
            });
        }
    }
    inspection
}

fn kind(path: &Path) -> &'static str {
    match (path.is_dir(), header(path)) {
        (true, _) => "Hugging Face folder",
        (false, Some(_)) => "GGUF file",
        (false, None) => "file",
    }
}

/// How config.json says that the weights of a folder are quantized, if they are.
fn quantization(dir: &Path) -> Option<String> {
    let config = fs::read(dir.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    Some(config["quantization_config"]["quant_method"].as_str()?.to_owned())
}

fn describe(checkpoint: &Checkpoint, inspection: &mut Inspection) -> Result<(), ModelError> {
    inspection.say("name", checkpoint.recorded("general.name"));
    describe_architecture(checkpoint, inspection);
    inspection.say("parameters", checkpoint.parameters());
    inspection.say("bytes", checkpoint.file_bytes());
    inspection.say("bits_per_weight", checkpoint.bits_per_weight());
    inspection.say("hash", checkpoint.hash().to_string());
    inspection.say("licence", checkpoint.recorded("general.license"));
    inspection.tensors = checkpoint.file_tensors().map(Tensor::from).collect();
    // A tokenizer or a template that cannot be used keeps a model from being served as well.
    checkpoint.tokenizer()?;
    let template = checkpoint.chat_template()?;
    inspection.say("chat_template", template.is_some());
    Ok(())
}

fn describe_architecture(checkpoint: &Checkpoint, inspection: &mut Inspection) {
    let spec = checkpoint.spec();
    let each = |value: fn(&LayerSpec) -> usize| distinct(spec.layers.iter().map(value));
    inspection.say("architecture", spec.family.as_str());
    inspection.say("layers", spec.layers.len());
    inspection.say("hidden_size", spec.hidden_size);
    inspection.say("heads", each(|layer| layer.attention.heads));
    inspection.say("key_value_heads", each(|layer| layer.attention.kv_heads));
    inspection.say("head_size", each(|layer| layer.attention.head_dim));
    inspection.say("inner_size", each(inner_size));
    let windows = spec.layers.iter().filter_map(|layer| layer.attention.window);
    inspection.say("window", distinct(windows));
    inspection.say("vocabulary", spec.vocab_size);
    inspection.say("context_length", spec.context_length);
    inspection.say("tied_output", spec.tied_output);
}

fn inner_size(layer: &LayerSpec) -> usize {
    match layer.feed_forward {
        FeedForward::Gated { inner_size, .. } | FeedForward::Plain { inner_size, .. } => inner_size,
    }
}

/// The one value of all layers, or each that occurs; null of none.
fn distinct(values: impl Iterator<Item = usize>) -> Value {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    match values.as_slice() {
        [] => Value::Null,
        &[one] => one.into(),
        several => several.into(),
    }
}

/// What a file that is not served says of itself.
fn describe_header(gguf: &Gguf, inspection: &mut Inspection) {
    for (name, key) in [
        ("name", "general.name"),
        ("architecture", "general.architecture"),
        ("licence", "general.license"),
    ] {
        inspection.say(name, gguf.get_str(key).ok().flatten());
    }
    inspection.tensors = gguf.tensors().iter().map(Tensor::from).collect();
}
