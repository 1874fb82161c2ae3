//! The files of a folder: config.json, and the safetensors files that hold the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rootstock_formats::mmap::MappedFile;
use rootstock_formats::safetensors::SafeTensors;
use serde_json::{Map, Value};

use super::super::Refusal;
use super::super::shards::Shards;
use super::int4::LEGACY_FILES;
use crate::ContentHash;

/// The architecture.
pub(super) const CONFIG: &str = "config.json";
/// The weights, if they are one file.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// Which file holds which tensor, if they are several.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Longest JSON file that is read, in bytes.
const LONGEST_JSON: u64 = 64 << 20;

/// The content of a folder.
pub(super) struct Folder {
    pub(super) config: Map<String, Value>,
    pub(super) shards: Shards,
    /// The file that describes a quantization, where config.json does not.
    pub(super) legacy: Option<Legacy>,
    pub(super) hash: ContentHash,
}

/// A file of its own that describes a quantization.
pub(super) struct Legacy {
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    pub(super) object: Map<String, Value>,
}

impl Folder {
    /// Reads config.json and the headers of the weights; maps the weights.
    ///
    /// # Errors
    /// Files that are missing, unreadable or contradict the index.
    pub(super) fn open(dir: &Path) -> Result<Self, Refusal> {
        let Some(bytes) = read(dir, CONFIG)? else {
            let hint = if dir.join("adapter_config.json").exists() {
                " (an adapter is no base model)"
            } else {
                ""
            };
            return Err(Refusal::unsupported(format_args!("{CONFIG} is missing{hint}")));
        };
        let config = object(CONFIG, &bytes)?;
        let mut hasher = blake3::Hasher::new();
        framed(&mut hasher, &bytes);
        let shards = weights(dir, &mut hasher)?;
        let legacy = if config.contains_key("quantization_config") {
            None
        } else {
            legacy(dir, &shards, &mut hasher)?
        };
        Ok(Self {
            config,
            shards,
            legacy,
            hash: ContentHash(*hasher.finalize().as_bytes()),
        })
    }
}

/// config.json of a folder.
pub(super) fn config(dir: &Path) -> Result<Map<String, Value>, Refusal> {
    let missing = || Refusal::unsupported(format_args!("{CONFIG} is missing"));
    json(dir, CONFIG)?.ok_or_else(missing)
}

/// The file of older tools, which matters only where there is something quantized.
fn legacy(dir: &Path, shards: &Shards, hasher: &mut blake3::Hasher) -> Result<Option<Legacy>, Refusal> {
    if !shards.names().any(|name| name.ends_with(".qweight")) {
        return Ok(None);
    }
    for (name, method) in LEGACY_FILES {
        if let Some(bytes) = read(dir, name)? {
            framed(hasher, &bytes);
            let object = object(name, &bytes)?;
            return Ok(Some(Legacy { name, method, object }));
        }
    }
    Ok(None)
}

/// The JSON object in a file of the folder; `None` if there is no such file.
fn json(dir: &Path, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
    read(dir, name)?.map(|bytes| object(name, &bytes)).transpose()
}

fn object(name: &str, bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::unsupported(format_args!("{name}: expected a JSON object, got {error}")))
}

fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
    let failed = |error| Refusal::unsupported(format_args!("{name}: {error}"));
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST_JSON + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST_JSON {
        return Err(Refusal::unsupported(format_args!(
            "{name}: expected at most {LONGEST_JSON} bytes"
        )));
    }
    Ok(Some(bytes))
}

/// Hashes the length too, so that no other cut of the same bytes has the same hash.
fn framed(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn weights(dir: &Path, hasher: &mut blake3::Hasher) -> Result<Shards, Refusal> {
    let mut shards = Shards::default();
    match (dir.join(WEIGHTS).exists(), json(dir, INDEX)?) {
        (true, Some(_)) => {
            return Err(Refusal::unsupported(format_args!(
                "{WEIGHTS} and {INDEX}: expected one of them, got both; remove the one that is not meant"
            )));
        }
        (true, None) => {
            add(&mut shards, hasher, dir, WEIGHTS)?;
        }
        (false, Some(index)) => {
            for (file, expected) in indexed(&index)? {
                let found = add(&mut shards, hasher, dir, file)?;
                if let Some(name) = found.symmetric_difference(&expected).next() {
                    let but = if found.contains(name) {
                        "is in the file but not in"
                    } else {
                        "is not in the file, but in"
                    };
                    return Err(Refusal::unsupported(format_args!(
                        "{file}: tensor {name:?} {but} {INDEX}"
                    )));
                }
            }
        }
        (false, None) => return Err(no_weights(dir)),
    }
    Ok(shards)
}

/// Adds a file; the names of its tensors.
fn add(shards: &mut Shards, hasher: &mut blake3::Hasher, dir: &Path, name: &str) -> Result<BTreeSet<String>, Refusal> {
    let failed = |error| Refusal::unsupported(format_args!("{name}: {error}"));
    let file = MappedFile::open(&dir.join(name)).map_err(failed)?;
    let parsed = SafeTensors::parse_with_integers(&file).map_err(failed)?;
    hasher.update(&(file.len() as u64).to_le_bytes());
    file.read_through(|bytes| {
        hasher.update(bytes);
    });
    let names = parsed.tensors().keys().cloned().collect();
    shards.add(file, parsed.tensors().clone())?;
    Ok(names)
}

/// The files of an index, in order of their names, and the tensors each of them holds.
fn indexed(index: &Map<String, Value>) -> Result<BTreeMap<&str, BTreeSet<String>>, Refusal> {
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(Refusal::unsupported(format_args!(
            "{INDEX}: weight_map: expected an object of tensors"
        )));
    };
    let mut files: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in map {
        match file.as_str().filter(|file| is_plain(file)) {
            Some(file) => drop(files.entry(file).or_default().insert(tensor.clone())),
            None => {
                return Err(Refusal::unsupported(format_args!(
                    "{INDEX}: tensor {tensor:?}: {file} is not the name of a safetensors file in the folder"
                )));
            }
        }
    }
    Ok(files)
}

/// Whether a name stays within the folder.
fn is_plain(name: &str) -> bool {
    let strange = |c: char| c.is_control() || ['/', '\\', ':'].contains(&c);
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(strange)
}

fn no_weights(dir: &Path) -> Refusal {
    let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
        .into_iter()
        .find(|name| dir.join(name).exists());
    Refusal::unsupported(match pickle {
        Some(name) => format!(
            "{name}: pickled weights can run code and are not read; save the model as safetensors (transformers: \
             save_pretrained) and try again"
        ),
        None => format!("{WEIGHTS} is missing"),
    })
}
