//! The files of an adapter: opened, bounded in size, and told apart from what must not be read.
//! They may change or vanish at any moment, so they are read, never mapped.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use rootstock_formats::FormatError;
use rootstock_formats::peft::{AdapterConfig, ConfigError};
use rootstock_formats::safetensors::SafeTensors;

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
    let (file, metadata) = open_regular(path, CONFIG)?;
    let mut json = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits, whatever its metadata said.
    let read = file.take(LARGEST_CONFIG + 1).read_to_end(&mut json);
    read.map_err(|error| io_refusal(CONFIG, &error))?;
    if json.len() as u64 > LARGEST_CONFIG {
        let message = format!(
            "{CONFIG}: expected at most {LARGEST_CONFIG} bytes, got {}",
            metadata.len()
        );
        return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
    }
    AdapterConfig::parse(&json).map_err(|error| match error {
        ConfigError::PeftType(_) => {
            AdapterError::new(AdapterErrorCode::UnsupportedType, format_args!("{CONFIG}: {error}"))
        }
        ConfigError::Format(error) => format_refusal(CONFIG, error),
    })
}

/// Opens a regular file: a pipe in its place would block, a directory cannot be read.
fn open_regular(path: &Path, name: &str) -> Result<(File, Metadata), AdapterError> {
    let found = fs::metadata(path).map_err(|error| io_refusal(&shown(path), &error))?;
    if !found.is_file() {
        let message = format!("{name}: expected a regular file, got another kind");
        return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
    }
    let file = File::open(path).map_err(|error| io_refusal(&shown(path), &error))?;
    let metadata = file.metadata().map_err(|error| io_refusal(name, &error))?;
    Ok((file, metadata))
}

/// The folder's and the file's name: enough to find it, without telling where the server keeps it.
fn shown(path: &Path) -> String {
    let names: PathBuf = path
        .parent()
        .and_then(Path::file_name)
        .into_iter()
        .chain(path.file_name())
        .collect();
    names.display().to_string()
}

fn refused_pickle(name: &str) -> AdapterError {
    let message =
        format!("{name}: expected safetensors, got a pickle, which can run code; save with safe_serialization=True");
    AdapterError::new(AdapterErrorCode::Pickle, message)
}

pub(super) fn io_refusal(name: &str, error: &io::Error) -> AdapterError {
    let (code, message) = match error.kind() {
        io::ErrorKind::NotFound => (AdapterErrorCode::NotFound, format!("{name}: expected a file, got none")),
        io::ErrorKind::UnexpectedEof => (
            AdapterErrorCode::Malformed,
            format!("{name}: expected as many bytes as when it was opened, got fewer (truncated file)"),
        ),
        _ => (AdapterErrorCode::Malformed, format!("{name}: {error}")),
    };
    AdapterError::new(code, message)
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
