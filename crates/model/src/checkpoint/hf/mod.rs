//! A Hugging Face folder as a base model: config.json, sharded safetensors, and the int4 encodings such folders use.

mod config;
mod family;
mod fields;
mod folder;
mod int4;
mod names;
mod rope;
#[cfg(test)]
mod tests;
mod windows;

use std::path::Path;

use self::fields::Fields;
use self::folder::{CONFIG, Folder};
pub(super) use self::int4::Int4Place;
use self::names::Names;
use super::{Opened, Refusal, TextSource};

/// Opens a folder.
pub(super) fn open(dir: &Path) -> Result<Opened, Refusal> {
    let folder = Folder::open(dir)?;
    let fields = Fields::new(CONFIG, folder.config);
    let family = config::family(&fields)?;
    let fields = fields.spelled(family.aliases, family.defaults);
    let spec = config::spec(&fields, family, folder.shards.len())?;
    Ok(Opened {
        names: Box::new(Names::new(family, &spec, &folder.shards)?),
        spec,
        hash: folder.hash,
        shards: folder.shards,
        text: TextSource::Folder(dir.to_owned()),
    })
}

/// Values of `model_type` that are served.
pub(super) fn architectures() -> impl Iterator<Item = &'static str> {
    family::FAMILIES.iter().map(|family| family.model_type)
}
