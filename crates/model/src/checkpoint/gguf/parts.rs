//! The files of one model: a whole one, or every part of a split one, found beside the part that was named.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

use rootstock_formats::FormatError;
use rootstock_formats::gguf::{Gguf, Part};
use rootstock_formats::mmap::MappedFile;

use super::super::Refusal;
use super::super::shards::Shards;
use crate::ContentHash;

/// The opened files.
pub(super) struct Parts {
    /// Header of the first part, which has the metadata of the model.
    pub(super) gguf: Gguf,
    /// The tensors of all parts.
    pub(super) shards: Shards,
    /// Over the bytes of all parts, in order.
    pub(super) hash: ContentHash,
}

/// Opens the file, and if it is a part of a model all others too.
pub(super) fn open(path: &Path) -> Result<Parts, Refusal> {
    let (file, gguf) = map(path)?;
    match gguf.part()? {
        Some(part) => open_parts(path, part),
        None => {
            let mut hasher = blake3::Hasher::new();
            file.read_through(|bytes| {
                hasher.update(bytes);
            });
            let hash = ContentHash(*hasher.finalize().as_bytes());
            let mut shards = Shards::default();
            shards.add(file, gguf.tensors().clone())?;
            Ok(Parts { gguf, shards, hash })
        }
    }
}

fn map(path: &Path) -> Result<(MappedFile, Gguf), Refusal> {
    let file = MappedFile::open(path)?;
    let gguf = Gguf::parse(&file)?;
    Ok((file, gguf))
}

fn open_parts(path: &Path, part: Part) -> Result<Parts, Refusal> {
    let own_name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let stem = part.stem(own_name).ok_or_else(|| {
        let expected = part.file_name("NAME", part.number);
        Refusal::unsupported(format_args!(
            "split.no and split.count: the file is not called {expected}"
        ))
    })?;
    let (mut shards, mut hasher) = (Shards::default(), blake3::Hasher::new());
    let mut first: Option<Gguf> = None;
    for number in 0..part.count {
        let name = part.file_name(stem, number);
        let in_part = |refusal| within(&name, part, refusal);
        let (file, gguf) = map(&path.with_file_name(&name)).map_err(in_part)?;
        check(&gguf, Part { number, ..part }, first.as_ref()).map_err(in_part)?;
        file.read_through(|bytes| {
            hasher.update(bytes);
        });
        shards.add(file, gguf.tensors().clone()).map_err(in_part)?;
        first.get_or_insert(gguf);
    }
    let tensors = shards.len();
    match (first, part.tensors) {
        (_, Some(stated)) if stated != tensors => Err(Refusal::unsupported(format_args!(
            "split.tensors.count: expected {tensors}, the tensors of all parts, got {stated}"
        ))),
        (Some(gguf), _) => Ok(Parts {
            gguf,
            shards,
            hash: ContentHash(*hasher.finalize().as_bytes()),
        }),
        (None, _) => Err(Refusal::unsupported("split.count: no part")),
    }
}

/// A refusal of one part among others.
fn within(name: &str, part: Part, refusal: Refusal) -> Refusal {
    let reason = match refusal {
        Refusal::Format(FormatError::Io(error)) if error.kind() == ErrorKind::NotFound => {
            format!("is missing: all {} parts are expected in one folder", part.count)
        }
        Refusal::Format(error) => error.to_string(),
        Refusal::Unsupported(reason) => reason,
    };
    Refusal::unsupported(format_args!("part {name}: {reason}"))
}

/// Checks that a file is the expected part, and that it repeats no metadata of the model differently.
fn check(gguf: &Gguf, expected: Part, first: Option<&Gguf>) -> Result<(), Refusal> {
    if gguf.part()? != Some(expected) {
        let got = gguf
            .part()?
            .map_or_else(|| "a whole model".to_owned(), |part| format!("{part:?}"));
        return Err(Refusal::unsupported(format_args!(
            "split.*: expected {expected:?}, got {got}"
        )));
    }
    let Some(first) = first else {
        return Ok(());
    };
    let mut own = gguf.metadata().iter().filter(|(key, _)| !key.starts_with("split."));
    match own.find(|(key, value)| first.get(key) != Some(*value)) {
        Some((key, _)) => Err(Refusal::unsupported(format_args!(
            "{key}: differs from that of the first part"
        ))),
        None => Ok(()),
    }
}
