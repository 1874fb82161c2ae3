//! A merged model on its way into its files, with a bar of how far it is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use rootstock_formats::DType;
use rootstock_model::checkpoint::Role;
use rootstock_model::{FloatType, GgufFile, ModelError, ModelFolder, SaveSettings, WeightSource};
use rootstock_optimize::merge::Merged;
use rootstock_optimize::quantize::{Quantizer, Recipe, plan};

use crate::progress::{Progress, Unit};

/// What was written.
pub struct Written {
    /// Its tensors.
    pub tensors: usize,
    /// Bytes of the weights, of a GGUF file all.
    pub bytes: u64,
}

/// Writes a Hugging Face folder.
pub fn folder(
    folder: &ModelFolder,
    merged: &Merged<'_>,
    (dir, float): (&Path, FloatType),
    card: &str,
) -> Result<Written> {
    let bytes = folder.weight_bytes(float);
    let settings = SaveSettings {
        float,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card,
    };
    let source = Watched {
        source: merged,
        progress: Progress::start("merging", bytes, Unit::Bytes),
        element: float.bytes() as u64,
        done: Cell::new(0),
    };
    folder.write(dir, &source, &settings)?;
    let tensors = folder.tensors();
    Ok(Written { tensors, bytes })
}

/// Writes a GGUF file, every value rounded to the nearest that its type has.
pub fn gguf(file: &GgufFile, merged: &Merged<'_>, (path, recipe): (&Path, Recipe), threads: usize) -> Result<Written> {
    let types = plan(file.tensors(), file.spec(), recipe, &[])?;
    let typed = file.tensors().iter().zip(&types);
    let roles = typed.flat_map(|(tensor, &dtype)| tensor.parts.iter().map(move |&(role, _)| (role, dtype)));
    let roles: BTreeMap<Role, DType> = roles.collect();
    let matrices = file.tensors().iter().filter(|tensor| tensor.is_matrix());
    let weights: usize = matrices.map(|tensor| tensor.elements()).sum();
    let (bar, mut done) = (Progress::start("merging", weights as u64, Unit::Weights), 0);
    let mut progress = |report: &rootstock_optimize::quantize::TensorReport| {
        done += report.elements as u64;
        bar.reached(done);
    };
    let mut source = Quantizer::new(file.spec(), merged, roles, threads, &mut progress);
    file.write(path, &types, &mut source)?;
    Ok(Written {
        tensors: file.tensors().len(),
        bytes: file.bytes(&types)?,
    })
}

/// A source of weights that tells how far it is.
struct Watched<'a> {
    source: &'a dyn WeightSource,
    progress: Progress,
    /// Bytes of an element that is written.
    element: u64,
    done: Cell<u64>,
}

impl WeightSource for Watched<'_> {
    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let before = to.len();
        self.source.append(role, to)?;
        self.done
            .set(self.done.get() + (to.len() - before) as u64 * self.element);
        self.progress.reached(self.done.get());
        Ok(())
    }
}
