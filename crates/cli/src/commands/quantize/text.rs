//! A calibration text as sequences of tokens.

use std::fs;

use anyhow::{Context, Result};
use rootstock_decoder::Batch;
use rootstock_model::Checkpoint;

use crate::UsageError;
use crate::settings::CalibrationSettings;

/// Fewest tokens that tell anything.
const LEAST_TOKENS: usize = 64;

/// The text in sequences of equal length, one to a batch; what is left at its end is left out.
///
/// # Errors
/// A file that cannot be read, or is too short.
pub fn batches(settings: &CalibrationSettings, checkpoint: &Checkpoint) -> Result<Vec<Batch>> {
    let shown = settings.text.display();
    let text = fs::read_to_string(&settings.text).with_context(|| format!("--calibration: {shown}"))?;
    let tokenizer = checkpoint.tokenizer()?;
    let mut tokens = tokenizer.encode(&text, true)?;
    tokens.truncate(settings.tokens);
    if tokens.len() < LEAST_TOKENS {
        let found = tokens.len();
        let reason = format!("--calibration: {shown} has {found} tokens, expected {LEAST_TOKENS} at the least");
        return Err(UsageError(reason).into());
    }
    let length = settings.length.min(checkpoint.spec().context_length).min(tokens.len());
    let sequences = tokens.chunks_exact(length).map(|sequence| {
        let mut batch = Batch::default();
        batch.push(sequence, &vec![false; length]);
        batch
    });
    Ok(sequences.collect())
}
