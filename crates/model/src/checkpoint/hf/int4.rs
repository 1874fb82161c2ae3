//! Modules quantized to int4 by GPTQ, AWQ or compressed-tensors: several tensors that make up one matrix.

use super::super::Refusal;
use super::super::shards::Shards;
use crate::MatrixView;

/// Where the matrix of a role lies among the tensors of a quantized module.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Int4Place {
    /// Path of the module, e.g. `model.layers.0.self_attn.q_proj`.
    pub(in super::super) module: String,
}

impl Int4Place {
    /// Checks types and shapes of the module's tensors against the shape of the role, `[outputs, inputs]`.
    pub(in super::super) fn check(&self, _shards: &Shards, _shape: &[usize]) -> Result<(), Refusal> {
        Err(Refusal::unsupported(format_args!(
            "module {}: int4 is not read yet",
            self.module
        )))
    }

    /// Names of the module's tensors.
    pub(in super::super) fn tensors(&self, _shards: &Shards) -> Vec<String> {
        Vec::new()
    }

    /// The matrix as blocks of [`DType::I4`](rootstock_formats::DType::I4), or as numbers where groups do not allow it.
    pub(in super::super) fn matrix(&self, _shards: &Shards, _shape: [usize; 2]) -> Result<MatrixView<'_>, Refusal> {
        Err(Refusal::unsupported(format_args!(
            "module {}: int4 is not read yet",
            self.module
        )))
    }
}
