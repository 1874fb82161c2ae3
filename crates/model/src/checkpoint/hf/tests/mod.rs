//! Folders made from the tiny checkpoints of `tests/fixtures/tiny`, whole or changed.

mod config;
mod folders;
mod grouped;
mod int4;
mod quantized;
mod rope;
mod tiny;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::checkpoint::Checkpoint;
use crate::{ArchSpec, ModelError};

/// A tensor: type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint in memory, to be changed before it is opened.
struct Model {
    config: Map<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tiny")
        .join(name)
}

impl Model {
    fn tiny(name: &str) -> Self {
        let config = std::fs::read(fixture(name).join("config.json")).unwrap();
        let weights = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&weights).unwrap();
        let own = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Self {
            config: serde_json::from_slice(&config).unwrap(),
            tensors: tensors.tensors().into_iter().map(own).collect(),
        }
    }

    fn set(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.to_owned(), value);
        self
    }

    fn without(mut self, field: &str) -> Self {
        self.config.remove(field);
        self
    }

    /// The tensors by other names; those without one are left out.
    fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.tensors.into_iter();
        self.tensors = tensors
            .filter_map(|(old, tensor)| Some((name(&old)?, tensor)))
            .collect();
        self
    }

    fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    fn write_config(&self, dir: &Path) {
        std::fs::write(dir.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    /// Writes the tensors whose names pass into a file.
    fn write_weights(&self, path: &Path, pass: impl Fn(&str) -> bool) {
        let tensors = self.tensors.iter().filter(|(name, _)| pass(name));
        let view = |(name, (dtype, shape, bytes)): (&String, &Tensor)| {
            (
                name.clone(),
                TensorView::new(*dtype, shape.clone(), bytes).unwrap().data().to_vec(),
                *dtype,
                shape.clone(),
            )
        };
        let owned: Vec<_> = tensors.map(view).collect();
        let views = owned
            .iter()
            .map(|(name, bytes, dtype, shape)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        std::fs::write(path, safetensors::tensor::serialize(views, None).unwrap()).unwrap();
    }

    fn folder(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write_config(dir.path());
        self.write_weights(&dir.path().join("model.safetensors"), |_| true);
        dir
    }

    fn open(&self) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(self.folder().path())
    }

    fn spec(&self) -> ArchSpec {
        self.open().unwrap_or_else(|error| panic!("{error}")).spec().clone()
    }

    fn refusal(&self) -> String {
        self.open().err().expect("a refusal").to_string()
    }
}

/// The message of a folder that is not opened.
fn refusal(dir: &Path) -> String {
    Checkpoint::open(dir).err().expect("a refusal").to_string()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect()
}
