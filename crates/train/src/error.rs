//! What can go wrong before and during a run: which file, which line, expected and got.

use std::path::Path;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file that cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A row that is not what its file's kind promises, or whose fields are not of its shape.
    #[error("{file}:{line}: {reason}")]
    Row {
        /// The file.
        file: String,
        /// Line, or number of the row where the kind has no lines, from 1.
        line: usize,
        /// What was expected and what was found.
        reason: String,
    },
    /// An example that cannot be put into tokens.
    #[error("{0}")]
    Encode(String),
    /// A model that cannot be trained.
    #[error("{0}")]
    Model(String),
    /// Files, slices or settings that make no data set.
    #[error("{0}")]
    Dataset(String),
    /// A setting that does not fit.
    #[error("{field}: {reason}")]
    Setting {
        /// The setting, as a settings file names it.
        field: String,
        /// What was expected and what was given.
        reason: String,
    },
    /// Not even one row at a time fits into memory.
    #[error(
        "one row at a time would take about {} of memory, and there is {}; {advice}",
        rootstock_report::quantity::bytes(*.needed),
        rootstock_report::quantity::bytes(*.room)
    )]
    Memory {
        /// Bytes that the process would take.
        needed: u64,
        /// Bytes that it may take.
        room: u64,
        /// What would take less.
        advice: String,
    },
    /// The files of a run do not fit on their disk.
    #[error(
        "{dir}: the run writes about {} there ({} of it checkpoints), and {} are free; free some space, take another folder, or keep \
         fewer checkpoints (save_total_limit)",
        rootstock_report::quantity::bytes(.plan.total()),
        rootstock_report::quantity::bytes(.plan.checkpoint_bytes),
        rootstock_report::quantity::bytes(*.free)
    )]
    Disk {
        /// The output folder.
        dir: String,
        /// What would be written.
        plan: crate::run::DiskPlan,
        /// Bytes that may be written.
        free: u64,
    },
    /// State of an optimizer that does not belong to its parameters.
    #[error("optimizer state {name}: {reason}")]
    State {
        /// The buffer or the parameter.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },
}

impl From<rootstock_decoder::DecoderError> for TrainError {
    fn from(error: rootstock_decoder::DecoderError) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<rootstock_model::ModelError> for TrainError {
    fn from(error: rootstock_model::ModelError) -> Self {
        Self::Encode(error.to_string())
    }
}

impl TrainError {
    pub(crate) fn state(name: &str, reason: impl Into<String>) -> Self {
        Self::State {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io {
            file: file.display().to_string(),
            source,
        }
    }
}
