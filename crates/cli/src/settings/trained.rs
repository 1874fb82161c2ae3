//! How what `finetune` has trained is run afterwards: its base as it is served, and what an adapter or a model is measured on.

use std::path::Path;

use rootstock_engine::EngineSettings;
use rootstock_engine::native::ActivationPrecision;
use rootstock_model::{ArchSpec, Checkpoint};
use rootstock_train::dataset::Slice;
use rootstock_train::metrics::Words;

use super::evaluation::EVALUATION;
use super::{BaseSettings, EvalSettings, FinetuneSettings, Measure, Result};
use crate::args::Method;
use crate::models::{Located, OUTPUT_MODEL};

/// Most tokens that are generated to be compared with a completion.
const COMPARED_TOKENS: usize = 128;
/// Sequences that keys and values of a measurement have room for.
const MEASURED_SEQUENCES: usize = 8;

/// A model as it is served, the base or what was made of it, with room for so many sequences and answers of so many tokens.
///
/// # Errors
/// A model that cannot be read.
pub fn served_base(
    settings: &FinetuneSettings,
    model: &Path,
    (sequences, answer): (usize, usize),
    engine: EngineSettings,
) -> Result<BaseSettings> {
    let spec = Checkpoint::open(model)?.spec().clone();
    let context = (settings.max_length + answer).min(spec.context_length);
    Ok(BaseSettings {
        model: model.to_owned(),
        name: settings.model.name.clone(),
        threads: settings.threads,
        max_context: Some(context),
        kv_bytes: kv_bytes(&spec, context) * sequences,
        adapter_bytes: usize::MAX >> 1,
        max_rank: usize::MAX,
        activations: ActivationPrecision::Auto,
        weights: settings.weights(),
        four_bit_output: false,
        engine,
    })
}

/// Bytes that the keys and values of one sequence take in any precision.
pub fn kv_bytes(spec: &ArchSpec, tokens: usize) -> usize {
    let widths = spec
        .layers
        .iter()
        .map(|layer| layer.attention.kv_heads * layer.attention.head_dim);
    // Blocks that are not full take as much as full ones.
    2 * size_of::<f32>() * widths.sum::<usize>() * (tokens + 256)
}

/// What `eval` runs with to measure what a run wrote on rows that its training held out.
///
/// # Errors
/// A model that cannot be read.
pub fn measured(
    settings: &FinetuneSettings,
    held_out: &Slice,
    (output, measure): (&Path, Measure),
) -> Result<EvalSettings> {
    let model = output.join(OUTPUT_MODEL);
    let (model, adapters) = match settings.method {
        Method::Full => (model.as_path(), Vec::new()),
        _ => {
            let adapter = Located {
                name: settings.title.clone(),
                path: output.to_owned(),
            };
            (settings.model.path.as_path(), vec![adapter])
        }
    };
    let room = (MEASURED_SEQUENCES, COMPARED_TOKENS);
    Ok(EvalSettings {
        models: vec![served_base(settings, model, room, EVALUATION)?],
        bases: adapters.is_empty(),
        adapters,
        rows: settings.rows.clone(),
        slice: held_out.clone(),
        template: settings.template.clone(),
        max_length: Some(settings.max_length),
        measures: [measure].into(),
        labels: Vec::new(),
        max_tokens: COMPARED_TOKENS,
        words: Words::default(),
        least: Vec::new(),
        most: Vec::new(),
    })
}
