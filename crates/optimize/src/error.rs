//! What can go wrong: which file, which tensor or setting, expected and got.

/// Why an artefact cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OptimizeError {
    /// A model that cannot be read or written.
    #[error(transparent)]
    Model(#[from] rootstock_model::ModelError),
    /// A model that cannot be run over a text.
    #[error(transparent)]
    Decoder(#[from] rootstock_decoder::DecoderError),
    /// An adapter that cannot be read or written.
    #[error(transparent)]
    Adapter(#[from] rootstock_model::adapter::AdapterError),
    /// A tensor that cannot be brought into the form that is asked for.
    #[error("{tensor}: {reason}")]
    Tensor {
        /// Its name, or its place in the architecture.
        tensor: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// Logits that are no distribution.
    #[error(
        "the {model} gives logits that are not finite at position {position}: its weights or an adapter's are broken, or too large"
    )]
    NotFinite {
        /// The one of two models that are compared.
        model: &'static str,
        /// Rows before it.
        position: u64,
    },
    /// A setting that does not fit.
    #[error("{field}: {reason}")]
    Setting {
        /// The setting, as it is typed.
        field: String,
        /// What was expected and what was given.
        reason: String,
    },
}
