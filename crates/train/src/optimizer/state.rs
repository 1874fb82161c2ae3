//! The state as named buffers, for a checkpoint file of whatever kind, and back. What is restored is the same bits.

use std::borrow::Cow;
use std::collections::HashMap;

use super::adamw::{AdamW, Entry};
use super::moments::Moments;
use crate::TrainError;

/// A one-dimensional array of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the type is the name")]
pub enum Buffer<'a> {
    F32(Cow<'a, [f32]>),
    U8(Cow<'a, [u8]>),
    U64(Cow<'a, [u64]>),
}

impl Buffer<'_> {
    fn describe(&self) -> String {
        let (kind, length) = match self {
            Self::F32(values) => ("f32", values.len()),
            Self::U8(values) => ("u8", values.len()),
            Self::U64(values) => ("u64", values.len()),
        };
        format!("{length} values of {kind}")
    }
}

/// A part of an entry's state, to be read or to be written.
enum Part<'a> {
    F32(&'a mut [f32]),
    U8(&'a mut [u8]),
    U64(&'a mut u64),
}

impl AdamW {
    /// All that steps depend on beside settings and parameters: per parameter `NAME.steps` (1 value), and `NAME.exp_avg` and
    /// `NAME.exp_avg_sq` (a value per element), or for 8-bit moments each as `.codes` (one per element) and `.scales` (one per
    /// block of 256).
    pub fn state(&self) -> Vec<(String, Buffer<'_>)> {
        self.entries.iter().flat_map(entry_state).collect()
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A buffer that is missing, of another type or length, or of no parameter here; the state is then undefined, and the
    /// optimizer is to be thrown away.
    pub fn restore<'a>(&mut self, state: impl IntoIterator<Item = (String, Buffer<'a>)>) -> Result<(), TrainError> {
        let mut given: HashMap<String, Buffer<'a>> = state.into_iter().collect();
        for (name, part) in self.entries.iter_mut().flat_map(parts) {
            let buffer = given
                .remove(&name)
                .ok_or_else(|| TrainError::state(&name, "expected it in the checkpoint, found none"))?;
            fill(&name, part, &buffer)?;
        }
        match given.keys().min() {
            None => Ok(()),
            Some(name) => Err(TrainError::state(
                name,
                "is in the checkpoint, but belongs to no trainable tensor of this run",
            )),
        }
    }
}

fn entry_state(entry: &Entry) -> Vec<(String, Buffer<'_>)> {
    let name = |part: &str| format!("{}.{part}", entry.parameter.name);
    let mut state = vec![(
        name("steps"),
        Buffer::U64(Cow::Borrowed(std::slice::from_ref(&entry.steps))),
    )];
    match &entry.moments {
        Moments::F32 { first, second } => {
            state.push((name("exp_avg"), Buffer::F32(first.into())));
            state.push((name("exp_avg_sq"), Buffer::F32(second.into())));
        }
        Moments::Blockwise8 { first, second } => {
            for (part, blocks) in [("exp_avg", first), ("exp_avg_sq", second)] {
                state.push((name(&format!("{part}.codes")), Buffer::U8((&blocks.codes).into())));
                state.push((name(&format!("{part}.scales")), Buffer::F32((&blocks.scales).into())));
            }
        }
    }
    state
}

/// The same, to be written.
fn parts(entry: &mut Entry) -> Vec<(String, Part<'_>)> {
    let name = |part: &str| format!("{}.{part}", entry.parameter.name);
    let mut parts = vec![(name("steps"), Part::U64(&mut entry.steps))];
    match &mut entry.moments {
        Moments::F32 { first, second } => {
            parts.push((name("exp_avg"), Part::F32(first)));
            parts.push((name("exp_avg_sq"), Part::F32(second)));
        }
        Moments::Blockwise8 { first, second } => {
            for (part, blocks) in [("exp_avg", first), ("exp_avg_sq", second)] {
                parts.push((name(&format!("{part}.codes")), Part::U8(&mut blocks.codes)));
                parts.push((name(&format!("{part}.scales")), Part::F32(&mut blocks.scales)));
            }
        }
    }
    parts
}

fn fill(name: &str, part: Part<'_>, buffer: &Buffer<'_>) -> Result<(), TrainError> {
    let expected = match (part, buffer) {
        (Part::F32(into), Buffer::F32(from)) if into.len() == from.len() => {
            into.copy_from_slice(from);
            return Ok(());
        }
        (Part::U8(into), Buffer::U8(from)) if into.len() == from.len() => {
            into.copy_from_slice(from);
            return Ok(());
        }
        (Part::U64(into), Buffer::U64(from)) if from.len() == 1 => {
            *into = from[0];
            return Ok(());
        }
        (Part::F32(into), _) => format!("{} values of f32", into.len()),
        (Part::U8(into), _) => format!("{} values of u8", into.len()),
        (Part::U64(_), _) => "1 value of u64".to_owned(),
    };
    Err(TrainError::state(
        name,
        format!("expected {expected}, got {} in the checkpoint", buffer.describe()),
    ))
}
