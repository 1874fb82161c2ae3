//! The files of an adapter: a PEFT or AdapterHub folder, or a GGUF file by itself or alone in a folder; opened, bounded in size, and told
//! apart from what must not be read. They may change or vanish at any moment, so they are read, never mapped.

mod adapterhub;

use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use rootstock_formats::FormatError;
use rootstock_formats::adapterhub::{BottleneckConfig, is_adapterhub};
use rootstock_formats::gguf::Gguf;
use rootstock_formats::peft::{AdapterConfig, ConfigError};
use rootstock_formats::safetensors::SafeTensors;

use super::file::{io_refusal, open_regular, read_small};
use super::{AdapterError, AdapterErrorCode, AdapterLimits};
pub(super) use adapterhub::Head;
pub use adapterhub::{BOTTLENECK_HEAD, BOTTLENECK_WEIGHTS};

/// The configuration of a folder.
pub const CONFIG: &str = "adapter_config.json";
/// The tensors of a PEFT folder.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Names of weights that are pickles.
const PICKLES: [&str; 3] = ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"];
/// Real configurations take 2 KB; this bounds hostile ones, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;
/// How the folder of an initial adapter ends, as peft's documentation names them: `pissa_init`.
const INITIAL: &str = "_init";
/// Bytes of a GGUF file's start that hold the header of nearly every adapter.
const GGUF_START: usize = 256 << 10;

/// An adapter's files.
pub(super) struct Files {
    pub(super) main: File,
    /// The state in which training began, if it lies beside an adapter that needs it.
    pub(super) initial: Option<File>,
    /// The output layer that was trained beside bottlenecks.
    pub(super) head: Option<Head>,
    /// Where files beside the weights are looked for.
    pub(super) dir: Option<PathBuf>,
}

/// One set of weights, open, and what its headers say.
pub(super) struct File {
    pub(super) contents: Contents,
    pub(super) weights: Weights,
    /// The name of what was opened, for messages.
    pub(super) shown: String,
}

/// What the headers say.
pub(super) enum Contents {
    Peft {
        config: Box<AdapterConfig>,
        header: SafeTensors,
    },
    AdapterHub {
        config: Box<BottleneckConfig>,
        header: SafeTensors,
    },
    Gguf(Box<Gguf>),
}

/// A weights file, and what it looked like when it was opened.
pub(super) struct Weights {
    pub(super) file: fs::File,
    pub(super) name: String,
    opened_as: fs::Metadata,
}

impl Files {
    pub(super) fn open(path: &Path, limits: AdapterLimits) -> Result<Self, AdapterError> {
        if is_gguf(path) && !path.is_dir() {
            return Ok(Self {
                main: File::gguf(path, limits)?,
                initial: None,
                head: None,
                dir: None,
            });
        }
        if !path.is_dir() {
            let name = path.file_name().unwrap_or(path.as_os_str()).display();
            let message = format!("{name}: expected a folder or a .gguf file, got none");
            return Err(AdapterError::new(AdapterErrorCode::NotFound, message));
        }
        let dir = Some(path.to_owned());
        if !path.join(CONFIG).exists()
            && let Some(gguf) = only_gguf(path)?
        {
            let main = File::gguf(&gguf, limits)?;
            return Ok(Self {
                main,
                initial: None,
                head: None,
                dir,
            });
        }
        let main = File::folder(path, limits)?;
        let head = match &main.contents {
            Contents::AdapterHub { .. } => Head::open(path, limits)?,
            Contents::Peft { .. } | Contents::Gguf(_) => None,
        };
        let initial = match main.contents.needs_initial() {
            true => initial_folder(path)?
                .map(|path| File::folder(&path, limits))
                .transpose()?,
            false => None,
        };
        Ok(Self {
            main,
            initial,
            head,
            dir,
        })
    }

    /// What the adapter records as its base.
    pub(super) fn base_model(&self) -> Option<String> {
        match &self.main.contents {
            Contents::Peft { config, .. } => config.base_model.clone(),
            Contents::AdapterHub { config, .. } => config.base_model.clone(),
            Contents::Gguf(gguf) => {
                let name = gguf.get_str("general.base_model.0.name");
                name.ok().flatten().map(str::to_owned)
            }
        }
    }
}

impl File {
    /// Which library's folder it is, its configuration tells.
    fn folder(dir: &Path, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let json = read_small(&dir.join(CONFIG), CONFIG, LARGEST_CONFIG)?;
        if is_adapterhub(&json) {
            return Self::adapterhub(dir, &json, limits);
        }
        let config = Box::new(parse_config(&json)?);
        let weights = Weights::open_safetensors(dir, (WEIGHTS, &PICKLES), limits)?;
        let header = weights.safetensors_header()?;
        Ok(Self {
            contents: Contents::Peft { config, header },
            weights,
            shown: shown(dir),
        })
    }

    fn gguf(path: &Path, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let name = shown(path);
        let weights = Weights::open(path, &name, limits)?;
        let gguf = Box::new(weights.gguf_header()?);
        Ok(Self {
            contents: Contents::Gguf(gguf),
            weights,
            shown: name,
        })
    }
}

impl Contents {
    fn needs_initial(&self) -> bool {
        match self {
            Self::Peft { config, .. } => config
                .changed_base
                .as_ref()
                .is_some_and(|changed| changed.by_initial_pair),
            Self::AdapterHub { .. } | Self::Gguf(_) => false,
        }
    }
}

/// Whether a path is named as a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// The GGUF file of a folder that has no PEFT configuration.
fn only_gguf(dir: &Path) -> Result<Option<PathBuf>, AdapterError> {
    let found = matching(dir, |path| is_gguf(path) && path.is_file())?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            let message = format!("expected one .gguf file, got {} and {}", shown(first), shown(second));
            Err(AdapterError::new(AdapterErrorCode::Malformed, message))
        }
    }
}

/// The folder of the initial adapter.
fn initial_folder(dir: &Path) -> Result<Option<PathBuf>, AdapterError> {
    let named = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().ends_with(INITIAL.as_bytes()))
    };
    let found = matching(dir, |path| named(path) && path.join(CONFIG).is_file())?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            let message = format!(
                "expected one initial adapter, got {} and {}",
                shown(first),
                shown(second)
            );
            Err(AdapterError::new(AdapterErrorCode::Malformed, message))
        }
    }
}

/// What lies in a folder and is not hidden, by name.
fn matching(dir: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, AdapterError> {
    let refused = |error: std::io::Error| io_refusal(&shown(dir), &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

impl Weights {
    fn open_safetensors(
        dir: &Path,
        (name, pickles): (&str, &[&str]),
        limits: AdapterLimits,
    ) -> Result<Self, AdapterError> {
        let path = dir.join(name);
        if !path.exists()
            && let Some(pickle) = pickles.iter().find(|name| dir.join(name).exists())
        {
            return Err(refused_pickle(pickle));
        }
        Self::open(&path, name, limits)
    }

    fn open(path: &Path, name: &str, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let (file, opened_as) = open_regular(path, name)?;
        if opened_as.len() > limits.max_bytes {
            let (most, got) = (limits.max_bytes, opened_as.len());
            let message = format!("{name}: expected at most {most} bytes, got {got}");
            return Err(AdapterError::new(AdapterErrorCode::TooLarge, message));
        }
        Ok(Self {
            file,
            name: name.to_owned(),
            opened_as,
        })
    }

    fn safetensors_header(&self) -> Result<SafeTensors, AdapterError> {
        match SafeTensors::read_header(&self.file, self.opened_as.len()) {
            Err(_) if self.looks_like_pickle() => Err(refused_pickle(&self.name)),
            read => read.map_err(|error| format_refusal(&self.name, error)),
        }
    }

    /// Parses ever longer starts of the file until one holds the header.
    fn gguf_header(&self) -> Result<Gguf, AdapterError> {
        let refused = |error| format_refusal(&self.name, error);
        let file_len = usize::try_from(self.opened_as.len()).unwrap_or(usize::MAX);
        let (mut start, mut length) = (Vec::new(), GGUF_START);
        loop {
            let more = (&self.file).take((length - start.len()) as u64).read_to_end(&mut start);
            let read = more.map_err(|error| io_refusal(&self.name, &error))?;
            match Gguf::parse_start(&start, file_len) {
                Err(FormatError::Malformed { .. }) if read > 0 && start.len() < file_len => length *= 4,
                parsed => return parsed.map_err(refused),
            }
        }
    }

    /// torch.save writes a zip archive, or a bare pickle of protocol 2 to 5 whose first eight bytes are no sensible length.
    fn looks_like_pickle(&self) -> bool {
        let mut start = [0; 8];
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.read_exact(&mut start));
        read.is_ok() && (start.starts_with(b"PK\x03\x04") || matches!(start, [0x80, 2..=5, .., last] if last != 0))
    }

    /// Whether the file is still the one that was opened, as far as its length and time of change tell.
    pub(super) fn check_unchanged(&self) -> Result<(), AdapterError> {
        let name = &self.name;
        let now = self.file.metadata().map_err(|error| io_refusal(name, &error))?;
        if now.len() != self.opened_as.len() || now.modified().ok() != self.opened_as.modified().ok() {
            let message = format!(
                "{name}: expected a file that is complete, got one that changed from {} to {} bytes while it was read",
                self.opened_as.len(),
                now.len()
            );
            return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
        }
        Ok(())
    }
}

fn parse_config(json: &[u8]) -> Result<AdapterConfig, AdapterError> {
    AdapterConfig::parse(json).map_err(|error| match error {
        ConfigError::PeftType(_) => {
            AdapterError::new(AdapterErrorCode::UnsupportedType, format_args!("{CONFIG}: {error}"))
        }
        ConfigError::Format(error) => format_refusal(CONFIG, error),
    })
}

fn refused_pickle(name: &str) -> AdapterError {
    let message = format!(
        "{name}: expected safetensors, got a pickle, which can run code; save with safe_serialization=True (in AdapterHub's library: \
                 use_safetensors=True)"
    );
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
