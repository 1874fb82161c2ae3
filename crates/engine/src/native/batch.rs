//! The rows of a step: generated tokens before those of prompts, where the two are rounded differently, and among each
//! sequences on the same adapters side by side, so that each adapter's matrices are read once.

use std::any::Any;
use std::ops::Range;

use rootstock_kernels::Places;

use super::adapter::NativeAdapter;
use crate::runner::{AppliedAdapter, BatchView, Capabilities, InputRow, OutputRows, RunnerError, SequenceView};

/// Where every row of a step comes from and which of them give logits. Reused between steps.
#[derive(Default)]
pub(super) struct StepLayout {
    /// Sequences in the order of their rows.
    order: Vec<usize>,
    /// First row of each sequence, by its index in the batch.
    first_row: Vec<usize>,
    /// Token of every row.
    pub tokens: Vec<u32>,
    /// Position and block table of every row.
    pub places: Places,
    /// The first row of a prompt, where those are computed apart; generated tokens come before.
    pub prompts_from: usize,
    /// Rows that give logits, in the order of the batch.
    pub outputs: Vec<usize>,
}

/// Consecutive rows on the same adapters.
pub(super) struct Segment<'a> {
    pub rows: Range<usize>,
    /// Adapters and the request's factor on each; none without an effect.
    pub adapters: Vec<(&'a NativeAdapter, f32)>,
}

/// What rows must share to be one segment: the same adapters in memory at the same scales.
fn key(adapters: &[AppliedAdapter]) -> impl Iterator<Item = (usize, u32)> + '_ {
    adapters.iter().map(|applied| {
        (
            std::sync::Arc::as_ptr(&applied.weights) as *const () as usize,
            applied.scale.to_bits(),
        )
    })
}

impl StepLayout {
    /// Takes over a batch.
    ///
    /// # Errors
    /// A token, position or block outside the model.
    ///
    /// # Panics
    /// If two sequences write the same slot of a block: the scheduler's fault, which the kernels must not see.
    pub fn arrange(&mut self, batch: &BatchView<'_>, runner: &Capabilities) -> Result<(), RunnerError> {
        for sequence in batch.sequences {
            check(sequence, runner)?;
        }
        let apart = |sequence: &SequenceView<'_>| sequence.prompt && runner.prompts_apart;
        self.order.clear();
        self.order.extend(0..batch.sequences.len());
        self.order.sort_by(|&a, &b| {
            let (a, b) = (&batch.sequences[a], &batch.sequences[b]);
            let adapters = || key(a.adapters).cmp(key(b.adapters));
            apart(a).cmp(&apart(b)).then_with(adapters)
        });
        self.tokens.clear();
        self.places.clear();
        self.first_row.clear();
        self.first_row.resize(batch.sequences.len(), 0);
        self.prompts_from = usize::MAX;
        for &index in &self.order {
            let sequence = &batch.sequences[index];
            self.first_row[index] = self.tokens.len();
            if apart(sequence) {
                self.prompts_from = self.prompts_from.min(self.tokens.len());
            }
            self.tokens
                .extend(sequence.inputs.iter().map(|InputRow::Token(token)| *token));
            self.places.push(
                sequence.position,
                sequence.inputs.len(),
                sequence.blocks.iter().map(|block| block.0),
            );
        }
        self.outputs.clear();
        for (sequence, &first) in batch.sequences.iter().zip(&self.first_row) {
            let end = first + sequence.inputs.len();
            match sequence.outputs {
                OutputRows::None => {}
                OutputRows::Last => self.outputs.push(end - 1),
                OutputRows::All => self.outputs.extend(first..end),
            }
        }
        Ok(())
    }

    /// The batch's rows grouped by adapters; rows on the base alone are in no segment.
    ///
    /// # Errors
    /// An adapter that another runner prepared.
    pub fn segments<'a>(&self, batch: &BatchView<'a>) -> Result<Vec<Segment<'a>>, RunnerError> {
        let mut segments: Vec<Segment<'a>> = Vec::new();
        let mut last: Option<usize> = None;
        for &index in &self.order {
            let sequence = &batch.sequences[index];
            let rows = self.first_row[index]..self.first_row[index] + sequence.inputs.len();
            if let (Some(segment), Some(last)) = (segments.last_mut(), last)
                && segment.rows.end == rows.start
                && key(batch.sequences[last].adapters).eq(key(sequence.adapters))
            {
                segment.rows.end = rows.end;
                continue;
            }
            let mut adapters = sequence.adapters.iter().map(native).collect::<Result<Vec<_>, _>>()?;
            adapters.retain(|(adapter, scale)| adapter.is_active(*scale));
            if !adapters.is_empty() {
                segments.push(Segment { rows, adapters });
            }
            last = Some(index);
        }
        Ok(segments)
    }
}

fn native(applied: &AppliedAdapter) -> Result<(&NativeAdapter, f32), RunnerError> {
    let weights: &dyn Any = &*applied.weights;
    let adapter = weights.downcast_ref::<NativeAdapter>();
    Ok((
        adapter.ok_or_else(|| RunnerError("an adapter was prepared for another runner".into()))?,
        applied.scale,
    ))
}

fn check(sequence: &SequenceView<'_>, runner: &Capabilities) -> Result<(), RunnerError> {
    let &Capabilities {
        vocab_size,
        max_context,
        blocks,
        ..
    } = runner;
    let end = sequence.position.saturating_add(sequence.inputs.len());
    let covered = sequence.blocks.len() * rootstock_kernels::BLOCK_TOKENS;
    if sequence.inputs.is_empty() || end > max_context.min(covered) {
        return Err(RunnerError(format!(
            "a sequence runs to position {end}: its blocks cover {covered}, the context {max_context}"
        )));
    }
    if let Some(block) = sequence.blocks.iter().find(|block| block.0 as usize >= blocks) {
        return Err(RunnerError(format!("KV block {} of a pool of {blocks}", block.0)));
    }
    let bad = |InputRow::Token(token): &&InputRow| *token as usize >= vocab_size;
    match sequence.inputs.iter().find(bad) {
        Some(InputRow::Token(token)) => Err(RunnerError(format!("token {token} of a vocabulary of {vocab_size}"))),
        None => Ok(()),
    }
}
