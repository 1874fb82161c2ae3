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
    /// A device that is not there, fails or is out of memory.
    #[error("{0}")]
    Device(String),
    /// The machine gives no threads.
    #[error("no threads to compute on: {0}")]
    Threads(#[from] std::io::Error),
    /// The instruction set that was asked for.
    #[error(transparent)]
    Isa(#[from] rootstock_kernels::UnknownIsa),
}
