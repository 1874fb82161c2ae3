//! The effects of a GGUF LoRA file, as llama.cpp reads them: `<base tensor>.lora_a` and `.lora_b`, one alpha for all.

use std::collections::BTreeMap;

use rootstock_formats::gguf::{Gguf, Value};
use rootstock_formats::peft::ModuleKind;
use rootstock_formats::{DType, FormatError};

use super::{EffectPlan, Form, Piece, Tensor, check_rank, check_scale, pairs};
use crate::adapter::error::clipped;
use crate::adapter::modules::{Map, ModuleRole, Modules};
use crate::adapter::names::GgufArchitecture;
use crate::adapter::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base};
use crate::{Projection, RowOrder, Site};

/// Metadata that does not enter what is computed, below `general.` all that is not read.
const INFORMATIVE: [&str; 2] = ["adapter.lora.task_name", "adapter.lora.prompt_prefix"];
/// What a message says about the kind of file.
const FILE: &str = "GGUF adapter";

/// A and B of a module.
type Sides<'a> = [Option<Tensor<'a>>; 2];

pub(super) fn effects<'a>(
    gguf: &'a Gguf,
    base: Base<'_>,
    limits: AdapterLimits,
) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
    let (architecture, alpha) = read_metadata(gguf, base)?;
    let modules = Modules::new(&architecture.names, base.spec);
    let mut effects = Vec::new();
    let found = place(gguf, &modules)?;
    let turned = architecture.turned_by_converter && turned(&found, &modules)?;
    for (module, sides) in modules.iter().zip(found) {
        let map = match &module.role {
            ModuleRole::Map(map) => map,
            _ => match sides.into_iter().flatten().next() {
                Some(tensor) => return Err(unmapped(tensor)),
                None => continue,
            },
        };
        let (a, b) = match sides {
            [None, None] => continue,
            [Some(a), Some(b)] => (a, b),
            [Some(one), None] | [None, Some(one)] => return Err(half(one)),
        };
        let (a, b) = oriented(map, a, b, turned)?;
        let rank = a.rows.len();
        // A file without alpha is read at scale 1.
        let scale = if alpha == 0.0 {
            1.0
        } else {
            (f64::from(alpha) / rank as f64) as f32
        };
        check_rank(&module.path, rank, limits, FILE)?;
        check_scale(&module.path, scale, FILE)?;
        let mut of_map = pairs(map, scale, &a, &b, None);
        if architecture.interleaved {
            of_map.iter_mut().for_each(|effect| undo_permutation(effect, base));
        }
        effects.extend(of_map);
    }
    if effects.is_empty() {
        let message = format!("{FILE}: expected pairs of tensors, got none");
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    }
    Ok(effects)
}

/// Checks every metadata key; returns the architecture and alpha.
fn read_metadata(gguf: &Gguf, base: Base<'_>) -> Result<(&'static GgufArchitecture, f32), AdapterError> {
    expect_text(gguf, "general.type", "adapter", Code::UnsupportedType)?;
    expect_text(gguf, "adapter.type", "lora", Code::UnsupportedType)?;
    let family = &base.spec.family;
    let Some(architecture) = GgufArchitecture::of_family(family) else {
        let message = format!("{FILE}: no tensor names are known for a base of the family {family}");
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    expect_text(gguf, "general.architecture", architecture.name, Code::WrongBase)?;
    for (key, value) in gguf.metadata() {
        let read = ["adapter.type", "adapter.lora.alpha"].contains(&key.as_str());
        let known = key.starts_with("general.") || read || INFORMATIVE.contains(&key.as_str());
        if !known && !is_empty(value) {
            let message = format!("{FILE}: metadata key {} is not supported", clipped(key));
            return Err(AdapterError::new(Code::UnsupportedField, message));
        }
    }
    let alpha = gguf.get_f32("adapter.lora.alpha").map_err(malformed)?.unwrap_or(0.0);
    if !alpha.is_finite() {
        let message = format!("{FILE}: adapter.lora.alpha: expected a finite number, got {alpha}");
        return Err(AdapterError::new(Code::NotFinite, message));
    }
    Ok((architecture, alpha))
}

fn expect_text(gguf: &Gguf, key: &str, expected: &str, code: Code) -> Result<(), AdapterError> {
    let got = gguf.get_str(key).map_err(malformed)?;
    if got == Some(expected) {
        return Ok(());
    }
    let got = got.map_or("none".to_owned(), |got| format!("{:?}", clipped(got)));
    let message = format!("{FILE}: {key}: expected {expected:?}, got {got}");
    Err(AdapterError::new(code, message))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn malformed(error: FormatError) -> AdapterError {
    AdapterError::new(Code::Malformed, format_args!("{FILE}: {error}"))
}

/// Sorts the tensors of the file by module.
fn place<'a>(gguf: &'a Gguf, modules: &Modules) -> Result<Vec<Sides<'a>>, AdapterError> {
    let mut found: Vec<Sides<'a>> = modules.iter().map(|_| [None, None]).collect();
    for (name, info) in gguf.tensors() {
        let tensor = Tensor { name, info };
        let split = [".weight.lora_a", ".weight.lora_b"].iter().enumerate();
        let place = split
            .filter_map(|(side, suffix)| Some((modules.index(name.strip_suffix(suffix)?)?, side)))
            .next();
        let (module, side) = place.ok_or_else(|| unmapped(tensor))?;
        if !info.dtype.is_float() && info.dtype != DType::Q8_0 {
            let message = format!(
                "{FILE}: tensor {name}: type {} is not supported (supported: F32, F16, BF16, Q8_0)",
                info.dtype
            );
            return Err(AdapterError::new(Code::Malformed, message));
        }
        found[module][side] = Some(tensor);
    }
    Ok(found)
}

/// Whether the file keeps A and B of the maps of layers in each other's place, which only maps that are not square tell.
fn turned(found: &[Sides<'_>], modules: &Modules) -> Result<bool, AdapterError> {
    let mut votes = BTreeMap::new();
    let mut undecided = None;
    for (module, sides) in modules.iter().zip(found) {
        let (ModuleRole::Map(map), [Some(a), Some(b)]) = (&module.role, sides) else {
            continue;
        };
        if map.kind != ModuleKind::Linear {
            continue;
        }
        let outer = (a.matrix_shape().1, b.matrix_shape().0);
        if map.inputs == map.outputs {
            undecided = Some(*a);
        } else {
            votes.insert(outer == (map.outputs, map.inputs), *a);
        }
    }
    match (votes.get(&true), votes.get(&false), undecided.as_ref()) {
        (Some(_), None, _) => Ok(true),
        (None, Some(_), _) | (None, None, None) => Ok(false),
        (Some(one), Some(_), _) | (None, None, Some(one)) => {
            let message = format!(
                "{FILE}: tensor {}: whether this file keeps lora_a and lora_b in each other's place, as llama.cpp's converter \
                 writes them for this architecture, cannot be told; give the PEFT folder instead",
                one.name
            );
            Err(AdapterError::new(Code::ShapeMismatch, message))
        }
    }
}

/// A as `[rank, inputs]` and B as `[outputs, rank]`.
fn oriented<'a>(map: &Map, a: Tensor<'a>, b: Tensor<'a>, turned: bool) -> Result<(Piece<'a>, Piece<'a>), AdapterError> {
    let (inputs, outputs) = (map.inputs, map.outputs);
    let rank = if turned { a.matrix_shape().0 } else { b.matrix_shape().1 }.max(1);
    let note = format!(" (rank {rank})");
    match map.kind {
        // llama.cpp looks rows of A up by token.
        ModuleKind::Embedding => {
            a.expect_shape(&[inputs, rank], &note)?;
            b.expect_shape(&[outputs, rank], &note)?;
            Ok((a.turned(), b.whole()))
        }
        ModuleKind::Linear if turned => {
            a.expect_shape(&[rank, outputs], &note)?;
            b.expect_shape(&[inputs, rank], &note)?;
            Ok((b.turned(), a.turned()))
        }
        ModuleKind::Linear | ModuleKind::Output => {
            a.expect_shape(&[rank, inputs], &note)?;
            b.expect_shape(&[outputs, rank], &note)?;
            Ok((a.whole(), b.whole()))
        }
    }
}

fn undo_permutation(effect: &mut EffectPlan<'_>, base: Base<'_>) {
    let EffectPlan::LowRank(pair) = effect else { return };
    if let Site::Layer {
        layer,
        projection: Projection::Query | Projection::Key,
    } = pair.site
    {
        let head_dim = base.spec.layers[layer].attention.head_dim;
        pair.b.form = Form::Ordered(RowOrder::InterleavedHalves { head_dim });
    }
}

fn half(one: Tensor<'_>) -> AdapterError {
    let name = one.name;
    let (stem, side) = name.split_at(name.len() - 1);
    let missing = if side == "a" { "b" } else { "a" };
    let message = format!("{FILE}: tensor {stem}{missing}: expected beside {name}, got none");
    AdapterError::new(Code::HalfPair, message)
}

fn unmapped(tensor: Tensor<'_>) -> AdapterError {
    let message = format!(
        "{FILE}: tensor {}: expected lora_a or lora_b of a linear map that the base has, got another name of shape {:?}",
        clipped(tensor.name),
        tensor.info.shape
    );
    AdapterError::new(Code::UnmappedTensor, message)
}
