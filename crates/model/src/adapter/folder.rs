//! The files of an adapter: opened, bounded in size, and told apart from what must not be read.
//! They may change or vanish at any moment, so they are read, never mapped.

use std::fs::{File, Metadata};
use std::io::{Read, Seek};
use std::path::Path;

use rootstock_formats::FormatError;
use rootstock_formats::peft::{AdapterConfig, ConfigError};
use rootstock_formats::safetensors::SafeTensors;

use super::file::{io_refusal, open_regular, read_small};
use super::{AdapterError, AdapterErrorCode, AdapterLimits};

const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// Names of weights that are pickles.
const PICKLES: [&str; 3] = ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"];
/// Real configurations take 2 KB; this bounds hostile ones, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// An adapter's folder with its configuration and the header of its weights.
pub(super) struct Folder {
    pub(super) config: AdapterConfig,
    pub(super) header: SafeTensors,
    pub(super) weights: Weights,
}

/// The weights file, and what it looked like when it was opened.
pub(super) struct Weights {
    pub(super) file: File,
    opened_as: Metadata,
}

impl Folder {
    pub(super) fn open(dir: &Path, limits: AdapterLimits) -> Result<Self, AdapterError> {
        if !dir.is_dir() {
            let message = format!("{}: expected a folder, got none", dir.display());
            return Err(AdapterError::new(AdapterErrorCode::NotFound, message));
        }
        let config = read_config(&dir.join(CONFIG))?;
        let mut weights = Weights::open(dir, limits)?;
        let header = weights.header()?;
        Ok(Self {
            config,
            header,
            weights,
        })
    }
}

impl Weights {
    fn open(dir: &Path, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let path = dir.join(WEIGHTS);
        if !path.exists()
            && let Some(pickle) = PICKLES.iter().find(|name| dir.join(name).exists())
        {
            return Err(refused_pickle(pickle));
        }
        let (file, opened_as) = open_regular(&path, WEIGHTS)?;
        if opened_as.len() > limits.max_bytes {
            let message = format!(
                "{WEIGHTS}: expected at most {} bytes, got {}",
                limits.max_bytes,
                opened_as.len()
            );
            return Err(AdapterError::new(AdapterErrorCode::TooLarge, message));
        }
        Ok(Self { file, opened_as })
    }

    fn header(&mut self) -> Result<SafeTensors, AdapterError> {
        match SafeTensors::read_header(&self.file, self.opened_as.len()) {
            Err(_) if self.looks_like_pickle() => Err(refused_pickle(WEIGHTS)),
            read => read.map_err(|error| format_refusal(WEIGHTS, error)),
        }
    }

    /// torch.save writes a zip archive, or a bare pickle of protocol 2 to 5 whose first eight bytes are no sensible length.
    fn looks_like_pickle(&mut self) -> bool {
        let mut start = [0; 8];
        let read = self.file.rewind().and_then(|()| self.file.read_exact(&mut start));
        read.is_ok() && (start.starts_with(b"PK\x03\x04") || matches!(start, [0x80, 2..=5, .., last] if last != 0))
    }

    /// Whether the file is still the one that was opened, as far as its length and time of change tell.
    pub(super) fn check_unchanged(&self) -> Result<(), AdapterError> {
        let now = self.file.metadata().map_err(|error| io_refusal(WEIGHTS, &error))?;
        if now.len() != self.opened_as.len() || now.modified().ok() != self.opened_as.modified().ok() {
            let message = format!(
                "{WEIGHTS}: expected a file that is complete, got one that changed from {} to {} bytes while it was read",
                self.opened_as.len(),
                now.len()
            );
            return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
        }
        Ok(())
    }
}

fn read_config(path: &Path) -> Result<AdapterConfig, AdapterError> {
    let json = read_small(path, CONFIG, LARGEST_CONFIG)?;
    AdapterConfig::parse(&json).map_err(|error| match error {
        ConfigError::PeftType(_) => {
            AdapterError::new(AdapterErrorCode::UnsupportedType, format_args!("{CONFIG}: {error}"))
        }
        ConfigError::Format(error) => format_refusal(CONFIG, error),
    })
}

fn refused_pickle(name: &str) -> AdapterError {
    let message =
        format!("{name}: expected safetensors, got a pickle, which can run code; save with safe_serialization=True");
    AdapterError::new(AdapterErrorCode::Pickle, message)
}

fn format_refusal(name: &str, error: FormatError) -> AdapterError {
    match error {
        FormatError::Io(error) => io_refusal(name, &error),
        // In the weights it is an element type that is not read.
        FormatError::Unsupported { .. } if name == CONFIG => {
            AdapterError::new(AdapterErrorCode::UnsupportedField, format_args!("{name}: {error}"))
        }
        FormatError::Malformed { .. } | FormatError::Unsupported { .. } => {
            AdapterError::new(AdapterErrorCode::Malformed, format_args!("{name}: {error}"))
        }
    }
}
