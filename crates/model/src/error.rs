//! Why a base model cannot be used.

use std::path::PathBuf;

/// A base model that cannot be opened or understood.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is not readable in its format.
    #[error("{}: {error}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rootstock_formats::FormatError,
    },
    /// The file is well formed and holds something this build does not serve.
    #[error("{}: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field or tensor, what was found and what is supported.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The tokenizer or the chat template cannot be built or used.
    #[error("{0}")]
    Text(String),
}
