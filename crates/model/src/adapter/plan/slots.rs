//! What a tensor of a PEFT file is to its module, told by the end of its name.

use std::collections::BTreeMap;

use super::Tensor;
use crate::adapter::container::WEIGHTS;
pub(super) use crate::adapter::slot::{PREFIX, Slot};
use crate::adapter::{AdapterError, AdapterErrorCode as Code};

/// The tensors found for one module.
pub(super) type Slots<'a> = BTreeMap<Slot, Tensor<'a>>;

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
