//! What peft calls the tensors of a module in its weights file.

/// What peft puts in front of a module's path in a weights file.
pub const PREFIX: &str = "base_model.model.";

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// `[rank, inputs]`
    A,
    /// `[outputs, rank]`
    B,
    /// `[rank, vocabulary]`
    EmbeddingA,
    /// `[hidden, rank]`
    EmbeddingB,
    /// Bias of B.
    DeltaBias,
    /// DoRA's.
    Magnitude,
    /// The base's own, beside a pair.
    BaseWeight,
    /// The base's own.
    BaseBias,
    /// The module's, trained.
    Weight,
    /// The module's, trained.
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

impl Slot {
    /// The module and the slot that a tensor's name means, for the modules that `index` knows.
    pub(super) fn of_name(name: &str, index: impl Fn(&str) -> Option<usize>) -> Option<(usize, Self)> {
        let path = name.strip_prefix(PREFIX)?;
        let known = |&(suffix, slot): &(&str, Self)| Some((index(path.strip_suffix(suffix)?)?, slot));
        SUFFIXES.iter().find_map(known)
    }

    /// The name of the tensor in this slot of a module.
    pub fn name(self, module: &str) -> String {
        format!("{PREFIX}{}", self.name_in_model(module))
    }

    /// The same as a model's own files have it.
    pub fn name_in_model(self, module: &str) -> String {
        let suffix = SUFFIXES
            .iter()
            .find(|(_, slot)| *slot == self)
            .map_or("", |(suffix, _)| suffix);
        format!("{module}{suffix}")
    }
}
