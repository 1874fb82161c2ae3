//! What a tensor of a PEFT file is to its module, told by the end of its name.

use std::collections::BTreeMap;

use super::Tensor;
use crate::adapter::container::WEIGHTS;
use crate::adapter::{AdapterError, AdapterErrorCode as Code};

/// What peft puts in front of a module's path in a weights file.
pub(super) const PREFIX: &str = "base_model.model.";

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    DeltaBias,
    Magnitude,
    /// The base's own, beside a pair.
    BaseWeight,
    BaseBias,
    /// The module's, trained.
    Weight,
    Bias,
}

/// Every way to spell a slot; the first is how peft writes it now.
const SUFFIXES: [(&str, Slot); 15] = [
    (".lora_A.weight", Slot::A),
    (".lora_B.weight", Slot::B),
    (".lora_B.bias", Slot::DeltaBias),
    (".lora_embedding_A", Slot::EmbeddingA),
    (".lora_embedding_B", Slot::EmbeddingB),
    (".lora_magnitude_vector", Slot::Magnitude),
    (".lora_magnitude_vector.weight", Slot::Magnitude),
    (".base_layer.weight", Slot::BaseWeight),
    (".base_layer.bias", Slot::BaseBias),
    (".weight", Slot::Weight),
    (".modules_to_save.weight", Slot::Weight),
    (".modules_to_save.default.weight", Slot::Weight),
    (".bias", Slot::Bias),
    (".modules_to_save.bias", Slot::Bias),
    (".modules_to_save.default.bias", Slot::Bias),
];

/// The tensors found for one module.
pub(super) type Slots<'a> = BTreeMap<Slot, Tensor<'a>>;

impl Slot {
    /// The module and the slot that a tensor's name means, for the modules that `index` knows.
    pub(super) fn of_name(name: &str, index: impl Fn(&str) -> Option<usize>) -> Option<(usize, Self)> {
        let path = name.strip_prefix(PREFIX)?;
        let known = |&(suffix, slot): &(&str, Self)| Some((index(path.strip_suffix(suffix)?)?, slot));
        SUFFIXES.iter().find_map(known)
    }

    /// The name of the tensor in this slot of a module.
    pub(super) fn name(self, module: &str) -> String {
        let suffix = SUFFIXES
            .iter()
            .find(|(_, slot)| *slot == self)
            .map_or("", |(suffix, _)| suffix);
        format!("{PREFIX}{module}{suffix}")
    }
}

pub(super) fn half(path: &str, missing: Slot, present: Tensor<'_>) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected beside {}, got none",
        missing.name(path),
        present.name
    );
    AdapterError::new(Code::HalfPair, message)
}

pub(super) fn no_pair(path: &str, first: Slot) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: {path}: expected a pair of tensors, as target_modules names it, got none ({} is missing)",
        first.name(path)
    );
    AdapterError::new(Code::UnmappedTensor, message)
}

pub(super) fn missing(path: &str, slot: Slot, field: &str) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected because of {field}, got none",
        slot.name(path)
    );
    AdapterError::new(Code::HalfPair, message)
}
