//! The native runner: decoder on our own kernels over weights packed at load.

use crate::runner::{AdapterPreparer, BatchView, Capabilities, Logits, Runner, RunnerError};
use rootstock_model::Checkpoint;
use std::sync::Arc;

/// Precision of the activations that enter a quantized product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// Rounded to int8 per block of 32.
    Int8,
    /// Kept in f32; slow, for checking.
    F32,
}

/// How the native runner is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeSettings {
    /// Worker threads, the caller's included.
    pub threads: usize,
    /// Longest sequence in tokens; at most the architecture's.
    pub max_context: usize,
    /// Bytes for the KV pool.
    pub kv_bytes: usize,
    /// Precision of the activations.
    pub activations: ActivationPrecision,
}

/// Decoder over packed weights.
pub struct NativeRunner {}

impl NativeRunner {
    /// Packs the weights of a checkpoint.
    ///
    /// # Errors
    /// A KV pool too small for one block per layer, or an element type without a packed form.
    pub fn new(_checkpoint: &Checkpoint, _settings: NativeSettings) -> Result<Self, RunnerError> {
        todo!()
    }
}

impl Runner for NativeRunner {
    fn capabilities(&self) -> Capabilities {
        todo!()
    }
    fn preparer(&self) -> Arc<dyn AdapterPreparer> {
        todo!()
    }
    fn step(&mut self, _batch: &BatchView<'_>, _logits: &mut Logits) -> Result<(), RunnerError> {
        todo!()
    }
}
