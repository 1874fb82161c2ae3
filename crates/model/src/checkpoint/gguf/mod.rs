//! A GGUF file, or all parts of a split one, as a base model.

mod family;
mod keys;
mod metadata;
mod names;
mod parts;
mod rotary;
pub(super) mod save;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::names::Names;
use super::{Opened, Refusal, TextSource};

/// Names of the architectures that are served, as `general.architecture` spells them.
pub(super) fn architectures() -> impl Iterator<Item = &'static str> {
    family::names()
}

/// Opens a file, and the other parts of its model.
pub(super) fn open(path: &Path) -> Result<Opened, Refusal> {
    let parts = parts::open(path)?;
    let family = metadata::family(&parts.gguf)?;
    let spec = metadata::spec(&parts.gguf, family, &parts.shards)?;
    Ok(Opened {
        names: Box::new(Names::new(family, &spec, &parts.shards)),
        spec,
        hash: parts.hash,
        shards: parts.shards,
        text: TextSource::Gguf(Box::new(parts.gguf)),
    })
}
