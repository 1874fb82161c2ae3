//! Checkpoints: a folder that holds all that the rest of a run depends on. It has its name only when it is complete.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rootstock_formats::mmap::MappedFile;
use rootstock_formats::safetensors::write::{Entry, header};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Trainer;
use crate::TrainError;
use crate::files::write_in_pieces;
use crate::optimizer::{Buffer, LossScale};
use crate::records::{EarlyStopping, LossWatch};

/// The state beside what is trained.
const STATE: &str = "trainer_state.safetensors";
/// What the name of a checkpoint begins with.
const PREFIX: &str = "checkpoint-";
/// What the name of one that is being written ends with, after a point before it; and that of one that is being removed.
const PART: &str = ".part";
const OLD: &str = ".old";

/// What is not a tensor.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    step: u64,
    tokens: [u64; 2],
    stopping: EarlyStopping,
    watch: LossWatch,
    /// Losses since the last record, as bits: JSON has no word for one that is no number.
    pending: (u64, u64),
    identity: Map<String, Value>,
    rows: u64,
    /// Rows that were computed at a time, where memory was too short for the batch: with others, the numbers would differ by
    /// rounding.
    #[serde(default)]
    rows_at_a_time: Option<usize>,
    #[serde(default)]
    loss_scale: Option<LossScale>,
}

/// The folder of a step's checkpoint below `output`.
pub fn folder(output: &Path, step: u64) -> PathBuf {
    output.join(format!("{PREFIX}{step}"))
}

/// Checkpoints below `output` by their steps, oldest first.
pub fn list(output: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let steps = entries.filter_map(|entry| {
        let step = entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
        entry.path().join(STATE).is_file().then_some((step, entry.path()))
    });
    let mut all: Vec<_> = steps.collect();
    all.sort_unstable();
    all
}

/// Removes all checkpoints below `output`: they are of a run that another takes the place of, which would otherwise go on from
/// them, or take its own first ones for the oldest.
///
/// # Errors
/// A folder that cannot be removed.
pub fn clear(output: &Path) -> Result<(), TrainError> {
    tidy(output)?;
    list(output).iter().try_for_each(|(step, _)| remove(output, *step))
}

/// Removes what a killed run has left of checkpoints that it was writing or removing.
///
/// # Errors
/// A folder that cannot be removed.
pub fn tidy(output: &Path) -> Result<(), TrainError> {
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| {
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_prefix(PREFIX));
        let step = step.and_then(|step| step.strip_suffix(PART).or_else(|| step.strip_suffix(OLD)));
        step.is_some_and(|step| step.parse::<u64>().is_ok())
    });
    let mut parts = parts.map(|entry| entry.path());
    parts.try_for_each(|part| fs::remove_dir_all(&part).map_err(|error| TrainError::io(&part, error)))
}

/// Removes a checkpoint. It loses its name first: half of one would neither be gone on from nor be removed.
fn remove(output: &Path, step: u64) -> Result<(), TrainError> {
    let (done, old) = (folder(output, step), output.join(format!(".{PREFIX}{step}{OLD}")));
    let removed = fs::rename(&done, &old).and_then(|()| fs::remove_dir_all(&old));
    removed.map_err(|error| TrainError::io(&done, error))
}

/// Writes a checkpoint below `output`: `also` puts more files into its folder before it gets its name. Removes the oldest beyond
/// the run's limit.
///
/// # Errors
/// Files that cannot be written.
pub fn save(
    trainer: &Trainer<'_>,
    output: &Path,
    also: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<PathBuf, TrainError> {
    tidy(output)?;
    let done = folder(output, trainer.step);
    let part = output.join(format!(".{PREFIX}{}{PART}", trainer.step));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| TrainError::io(&path, error)
    };
    fs::create_dir_all(&part).map_err(io(&part))?;
    let written = also(&part).and_then(|()| write(trainer, &part.join(STATE)));
    if let Err(error) = written {
        // The half of it is of no use.
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    if done.exists() {
        remove(output, trainer.step)?;
    }
    fs::rename(&part, &done).map_err(io(&done))?;
    let all = list(output);
    let surplus = all.len().saturating_sub(trainer.settings.save_total_limit.max(1));
    all[..surplus].iter().try_for_each(|(step, _)| remove(output, *step))?;
    Ok(done)
}

fn write(trainer: &Trainer<'_>, path: &Path) -> Result<(), TrainError> {
    let facts = Facts {
        step: trainer.step,
        tokens: trainer.tokens,
        stopping: trainer.stopping.clone(),
        watch: trainer.watch.clone(),
        pending: (trainer.pending.0.to_bits(), trainer.pending.1),
        identity: trainer.settings.identity(),
        rows: rows_checksum(trainer),
        rows_at_a_time: Some(trainer.at_a_time.training).filter(|&rows| rows != trainer.settings.batch_size),
        loss_scale: trainer.loss_scale,
    };
    let facts = serde_json::to_string(&facts).map_err(|error| TrainError::state(STATE, error.to_string()))?;
    let mut tensors: Vec<(String, Buffer<'_>)> = Vec::new();
    for (index, parameter) in trainer.attached.parameters.iter().enumerate() {
        let floats = |values| Buffer::F32(Cow::Borrowed(values));
        tensors.push((format!("values.{}", parameter.name), floats(&parameter.values)));
        if let Some(best) = &trainer.best {
            tensors.push((format!("best.{}", parameter.name), floats(&best[index])));
        }
    }
    let moments = trainer.optimizer.state().into_iter();
    tensors.extend(moments.map(|(name, buffer)| (format!("optimizer.{name}"), buffer)));
    let entries: Vec<Entry> = tensors.iter().map(|(name, buffer)| entry(name, buffer)).collect();
    write_in_pieces(path, |to| {
        to.write_all(&header(&entries, &[("facts", &facts)]))?;
        tensors.iter().try_for_each(|(_, buffer)| match buffer {
            Buffer::F32(values) => values.iter().try_for_each(|value| to.write_all(&value.to_le_bytes())),
            Buffer::U8(values) => to.write_all(values),
            Buffer::U64(values) => values.iter().try_for_each(|value| to.write_all(&value.to_le_bytes())),
        })
    })
}

fn entry(name: &str, buffer: &Buffer<'_>) -> Entry {
    let (dtype, len, size) = match buffer {
        Buffer::F32(values) => ("F32", values.len(), size_of::<f32>()),
        Buffer::U8(values) => ("U8", values.len(), 1),
        Buffer::U64(values) => ("U64", values.len(), size_of::<u64>()),
    };
    Entry {
        name: name.to_owned(),
        dtype,
        shape: vec![len],
        bytes: len * size,
    }
}

/// Puts a run where a checkpoint was written.
///
/// # Errors
/// A file that cannot be read, or that is of another run: which setting differs.
pub fn restore(trainer: &mut Trainer<'_>, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(STATE);
    let refuse = |reason: String| TrainError::state(&path.display().to_string(), reason);
    let bytes = MappedFile::open(&path).map_err(|error| refuse(error.to_string()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| refuse(error.to_string()))?;
    let facts = header.metadata().as_ref().and_then(|metadata| metadata.get("facts"));
    let facts = facts.ok_or_else(|| refuse("expected the facts of a run, found none".to_owned()))?;
    let facts: Facts = serde_json::from_str(facts).map_err(|error| refuse(error.to_string()))?;
    same_run(trainer, &facts)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
    let tensors: BTreeMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    let mut best = Vec::new();
    for parameter in trainer.attached.parameters.iter_mut() {
        let found = |kind: &str| {
            tensors
                .get(&format!("{kind}.{}", parameter.name))
                .map(|view| floats(view.data()))
        };
        let values = found("values").filter(|values| values.len() == parameter.values.len());
        best.extend(found("best"));
        parameter.values = values.ok_or_else(|| refuse(format!("expected the values of {}", parameter.name)))?;
    }
    trainer.best = (!best.is_empty()).then_some(best);
    let optimizer = tensors.iter().filter_map(|(name, view)| {
        let buffer = match view.dtype() {
            Dtype::F32 => Buffer::F32(Cow::Owned(floats(view.data()))),
            Dtype::U8 => Buffer::U8(Cow::Borrowed(view.data())),
            _ => Buffer::U64(
                view.data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| u64::from_le_bytes(bytes))
                    .collect(),
            ),
        };
        Some((name.strip_prefix("optimizer.")?.to_owned(), buffer))
    });
    trainer.optimizer.restore(optimizer)?;
    trainer.step = facts.step;
    trainer.tokens = facts.tokens;
    trainer.stopping = facts.stopping;
    trainer.watch = facts.watch;
    trainer.loss_scale = facts.loss_scale.or(trainer.loss_scale);
    if let Some(rows) = facts.rows_at_a_time {
        trainer.at_a_time.training = trainer.at_a_time.training.min(rows).max(1);
    }
    trainer.pending = (f64::from_bits(facts.pending.0), facts.pending.1);
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

fn same_run(trainer: &Trainer<'_>, facts: &Facts) -> Result<(), TrainError> {
    let now = trainer.settings.identity();
    for (field, value) in &now {
        let before = facts.identity.get(field).unwrap_or(&Value::Null);
        if before != value {
            return Err(TrainError::setting(
                field,
                format!("this run has {value}, the one to go on from had {before}"),
            ));
        }
    }
    match facts.rows == rows_checksum(trainer) {
        true => Ok(()),
        false => Err(TrainError::setting(
            "data_name",
            "these are not the rows that the run to go on from was trained on",
        )),
    }
}

/// Tells other rows from those of a run.
fn rows_checksum(trainer: &Trainer<'_>) -> u64 {
    let crc = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut digest = crc.digest();
    for row in trainer.rows {
        for sample in row {
            let tokens = sample.ids.iter().zip(&sample.learned);
            tokens.for_each(|(id, learned)| digest.update(&(u64::from(*id) << 1 | u64::from(*learned)).to_le_bytes()));
            digest.update(&[0xFF]);
        }
        digest.update(&[0xFE]);
    }
    digest.finalize()
}
