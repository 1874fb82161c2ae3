//! Tensors that a model gains when something is made part of its weights.

use crate::{ArchSpec, Projection, ProjectionSet};

/// What a model has that the checkpoint it is made of lacks. The source of its weights is asked for these, too, and for the biases
/// of the maps that the same field of config.json is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Additions {
    /// An output projection apart from the embedding.
    pub output: bool,
    /// Maps of every layer that add a bias.
    pub biases: ProjectionSet,
}

impl Additions {
    /// An architecture with what is added to it.
    pub(super) fn to(self, spec: &ArchSpec) -> ArchSpec {
        let mut spec = spec.clone();
        spec.tied_output &= !self.output;
        for layer in &mut spec.layers {
            let has = |projection: &Projection| layer.biases.contains(*projection) || self.biases.contains(*projection);
            layer.biases = Projection::ALL.into_iter().filter(has).collect();
        }
        spec
    }
}
