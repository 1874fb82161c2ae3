//! Why an adapter is refused: a stable code for programs, a message with file, tensor, expected and got for people.

use std::fmt;

/// Stable codes; the HTTP API and logs carry them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterErrorCode {
    /// The folder, its configuration or its weights file is missing.
    NotFound,
    /// A file could not be read, is truncated, oversized or not what its name says.
    Malformed,
    /// Weights come as a pickle, which can run code.
    Pickle,
    /// `peft_type` is not LORA, a GGUF file is no LoRA adapter, or a base of this family takes no bottlenecks.
    UnsupportedType,
    /// A field of adapter_config.json or rootstock.toml or a GGUF metadata key is not known and not at its default, or has
    /// a value that is not supported.
    UnsupportedField,
    /// A tensor belongs to no site of the base, or a target matches nothing.
    UnmappedTensor,
    /// A tensor's shape does not fit the base or the configured rank.
    ShapeMismatch,
    /// Part of what belongs together is missing: one of lora_A and lora_B, a magnitude, a trained bias, a saved weight.
    HalfPair,
    /// A NaN or an infinity.
    NotFinite,
    /// The adapter changes nothing.
    ZeroDelta,
    /// A rank is above the limit.
    RankTooLarge,
    /// The adapter was made for a base with another content hash or of another architecture.
    WrongBase,
    /// The adapter does not fit in the adapter memory.
    TooLarge,
}

impl AdapterErrorCode {
    /// The code as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "adapter_not_found",
            Self::Malformed => "adapter_malformed",
            Self::Pickle => "adapter_pickle_refused",
            Self::UnsupportedType => "adapter_unsupported_type",
            Self::UnsupportedField => "adapter_unsupported_field",
            Self::UnmappedTensor => "adapter_unmapped_tensor",
            Self::ShapeMismatch => "adapter_shape_mismatch",
            Self::HalfPair => "adapter_half_pair",
            Self::NotFinite => "adapter_not_finite",
            Self::ZeroDelta => "adapter_zero_delta",
            Self::RankTooLarge => "adapter_rank_too_large",
            Self::WrongBase => "adapter_wrong_base",
            Self::TooLarge => "adapter_too_large",
        }
    }
}

/// A refused adapter.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct AdapterError {
    /// For programs.
    pub code: AdapterErrorCode,
    /// For people: which file and tensor, expected and got, what to do.
    pub message: String,
}

impl AdapterError {
    /// A refusal with its facts.
    pub fn new(code: AdapterErrorCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

/// The start of a text that a stranger wrote: enough to find it, too little to fill a log.
pub(super) fn clipped(text: &str) -> String {
    text.chars().take(200).collect()
}
