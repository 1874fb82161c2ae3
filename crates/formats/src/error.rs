//! Why bytes are not what their format says.

/// Malformed or unsupported input. Callers add the path.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes contradict the format.
    #[error("{what}: expected {expected}, got {got}")]
    Malformed {
        /// Field, tensor or offset.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Valid, but of a kind this build does not read.
    #[error("{what}: {got} is not supported (supported: {supported})")]
    Unsupported {
        /// Field or tensor.
        what: String,
        /// What was found.
        got: String,
        /// What would be read.
        supported: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
