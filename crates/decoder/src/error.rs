//! Why a model cannot be trained.

/// A model, or a way of training it, that this decoder does not compute.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// Weights that cannot be used.
    #[error(transparent)]
    Pack(#[from] rootstock_model::packing::PackError),
    /// Weights that cannot be read.
    #[error(transparent)]
    Model(#[from] rootstock_model::ModelError),
    /// The shape of the model.
    #[error("{0}")]
    Unsupported(String),
    /// A device that is not there or fails.
    #[error("{0}")]
    Device(String),
    /// A device with too little memory for what it was given.
    #[error("{0}")]
    OutOfMemory(String),
    /// The machine gives no threads.
    #[error("no threads to compute on: {0}")]
    Threads(#[from] std::io::Error),
    /// The instruction set that was asked for.
    #[error(transparent)]
    Isa(#[from] rootstock_kernels::UnknownIsa),
}
