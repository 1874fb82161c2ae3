//! A Hugging Face folder as a base model: config.json, sharded safetensors, and the int4 encodings such folders use.

mod config;
mod family;
mod fields;
mod folder;
mod int4;
mod names;
mod rope;
pub(super) mod save;
mod tensor_names;
#[cfg(test)]
mod tests;
mod windows;

use std::path::Path;

use self::fields::Fields;
use self::folder::{CONFIG, Folder, Legacy};
pub(super) use self::int4::Int4Place;
use self::int4::Scheme;
use self::names::Names;
use super::{Opened, Refusal, TextSource};

/// Opens a folder.
pub(super) fn open(dir: &Path) -> Result<Opened, Refusal> {
    let folder = Folder::open(dir)?;
    let fields = Fields::new(CONFIG, folder.config);
    let family = config::family(&fields)?;
    let fields = fields.spelled(family.aliases, family.defaults);
    let scheme = scheme(&fields, folder.legacy)?;
    let spec = config::spec(&fields, family, folder.shards.len())?;
    Ok(Opened {
        names: Box::new(Names::new(family, &spec, scheme, &folder.shards)?),
        spec,
        hash: folder.hash,
        shards: folder.shards,
        text: TextSource::Folder(dir.to_owned()),
    })
}

/// How the weights are quantized, if they are.
fn scheme(config: &Fields, legacy: Option<Legacy>) -> Result<Option<Scheme>, Refusal> {
    if let Some(fields) = config.object("quantization_config")? {
        return Scheme::read(&fields).map(Some);
    }
    let Some(Legacy {
        name,
        method,
        mut object,
    }) = legacy
    else {
        return Ok(None);
    };
    object.insert("quant_method".to_owned(), method.into());
    // autoawq's own file has names of its own.
    let aliases: &[_] = match object.contains_key("w_bit") {
        true => &[("bits", "w_bit"), ("group_size", "q_group_size")],
        false => &[],
    };
    Scheme::read(&Fields::new(name, object).spelled(aliases, &[])).map(Some)
}

/// Values of `model_type` that are served.
pub(super) fn architectures() -> impl Iterator<Item = &'static str> {
    family::FAMILIES.iter().map(|family| family.model_type)
}

/// Values of `quant_method` that are served.
pub(super) fn quantizations() -> impl Iterator<Item = &'static str> {
    int4::METHODS.into_iter()
}
