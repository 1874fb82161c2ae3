//! A PEFT folder checked as a whole: its base, what it names, where its tensors belong.

use rootstock_formats::peft::{AdapterConfig, names_module};
use rootstock_formats::safetensors::SafeTensors;

use super::assembly::Assembly;
use super::slots::{PREFIX, Slot, Slots};
use super::{EffectPlan, Tensor, example, unmapped};
use crate::ContentHash;
use crate::adapter::container::{CONFIG, WEIGHTS};
use crate::adapter::error::clipped;
use crate::adapter::modules::{ModuleRole, Modules};
use crate::adapter::names::ModuleNames;
use crate::adapter::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base};

/// Modules that transformers adds to a base for other tasks.
const TASK_HEADS: [&str; 5] = ["score", "classifier", "qa_outputs", "v_head", "summary"];

pub(super) fn effects<'a>(
    config: &AdapterConfig,
    header: &'a SafeTensors,
    base: Base<'_>,
    limits: AdapterLimits,
) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
    check_base(config.base_hash, base.hash)?;
    let Some(names) = ModuleNames::of_family(&base.spec.family, |stack| names_layers(header, stack)) else {
        let family = &base.spec.family;
        let message = format!("no module names are known for a base of the family {family}");
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    check_fields(config, names)?;
    let modules = Modules::new(names, base.spec);
    check_targets_exist(config, &modules, base.spec.layers.len())?;
    check_saved_exist(config, &modules)?;
    let assembly = Assembly::new(config, &modules, names, base.spec, limits)?;
    let slots = place(header, &modules)?;
    assembly.effects(&modules, slots)
}

/// Whether a tensor of the file lies in the layers below `stack`.
fn names_layers(header: &SafeTensors, stack: &str) -> bool {
    let mut names = header.tensors().keys();
    names.any(|name| {
        let inside = name.strip_prefix(PREFIX).and_then(|path| path.strip_prefix(stack));
        inside.is_some_and(|rest| rest.starts_with('.'))
    })
}

/// A base that is recorded is the one that is served.
pub(super) fn check_base(recorded: Option<[u8; 32]>, base: ContentHash) -> Result<(), AdapterError> {
    match recorded.map(ContentHash) {
        Some(recorded) if recorded != base => {
            let message = format!("{CONFIG}: rootstock_base_hash: expected the served base {base}, got {recorded}");
            Err(AdapterError::new(Code::WrongBase, message))
        }
        _ => Ok(()),
    }
}

/// Fields that contradict the base or one another.
fn check_fields(config: &AdapterConfig, names: &ModuleNames) -> Result<(), AdapterError> {
    let refuse = |message: &str| {
        let message = format!("{CONFIG}: {message}");
        Err(AdapterError::new(Code::UnsupportedField, message))
    };
    if config.fan_in_fan_out && !names.conv1d {
        return refuse(
            "fan_in_fan_out: true is not supported for this base (supported: false, its maps are not Conv1D)",
        );
    }
    if config.delta_bias && config.dora {
        return refuse("lora_bias: true is not supported with use_dora, as in peft");
    }
    Ok(())
}

/// A name or layer that means nothing here was meant for another base.
fn check_targets_exist(config: &AdapterConfig, modules: &Modules, layers: usize) -> Result<(), AdapterError> {
    for name in config.target_names().into_iter().flatten() {
        if !modules
            .iter()
            .any(|module| !matches!(module.role, ModuleRole::Norm { .. }) && names_module(name, &module.path))
        {
            let (example, shown) = (example(modules), clipped(name));
            let message = format!(
                "{CONFIG}: target_modules: expected names of the base's linear maps (as in {example}), got {shown:?}, \
                 which matches none"
            );
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        }
    }
    let last = config.target_layers().and_then(<[u64]>::last).copied();
    match last {
        Some(layer) if layer >= layers as u64 => {
            let message = format!("{CONFIG}: layers_to_transform: expected layers below {layers}, got {layer}");
            Err(AdapterError::new(Code::UnmappedTensor, message))
        }
        _ => Ok(()),
    }
}

fn check_saved_exist(config: &AdapterConfig, modules: &Modules) -> Result<(), AdapterError> {
    let known = |name: &str| {
        modules
            .iter()
            .any(|module| AdapterConfig::saved_name_means(name, &module.path))
    };
    let Some(name) = config.saved_names().iter().find(|name| !known(name)) else {
        return Ok(());
    };
    let (shown, last) = (clipped(name), name.rsplit('.').next().unwrap_or_default());
    let why = match TASK_HEADS.contains(&last) {
        true => "the head of another task than generating text",
        false => "which matches none",
    };
    let message = format!("{CONFIG}: modules_to_save: expected modules of the base, got {shown:?}, {why}");
    Err(AdapterError::new(Code::UnmappedTensor, message))
}

/// Sorts the tensors of the file by module.
fn place<'a>(header: &'a SafeTensors, modules: &Modules) -> Result<Vec<Slots<'a>>, AdapterError> {
    let mut slots: Vec<Slots<'a>> = modules.iter().map(|_| Slots::new()).collect();
    for (name, info) in header.tensors() {
        if name.contains(".original_module.") {
            let message = format!(
                "{WEIGHTS}: tensor {}: expected what the adapter trained, got a copy of the base's own module; save the \
                 adapter with peft's save_pretrained",
                clipped(name)
            );
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        }
        if !info.dtype.is_float() {
            let message = format!(
                "{WEIGHTS}: tensor {}: type {} is not supported (supported: F32, F16, BF16)",
                clipped(name),
                info.dtype
            );
            return Err(AdapterError::new(Code::Malformed, message));
        }
        let Some((module, slot)) = Slot::of_name(name, |path| modules.index(path)) else {
            return Err(unmapped(name, info, "a tensor of a module that the base has"));
        };
        if let Some(earlier) = slots[module].insert(slot, Tensor { name, info }) {
            let message = format!(
                "{WEIGHTS}: tensor {name}: expected once, got it as {} too",
                earlier.name
            );
            return Err(AdapterError::new(Code::Malformed, message));
        }
    }
    Ok(slots)
}
