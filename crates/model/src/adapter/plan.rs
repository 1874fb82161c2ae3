//! Which tensors of the file are which pairs on which sites: every tensor maps, every targeted module has its pair,
//! every shape fits the base and the configured rank.

use std::collections::BTreeMap;

use rootstock_formats::TensorInfo;
use rootstock_formats::peft::{AdapterConfig, names_module};

use super::folder::{Folder, WEIGHTS};
use super::names::{ModuleNames, Side, split_tensor_name, tensor_name};
use super::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base};
use crate::{ArchSpec, ContentHash, Site};

/// The pairs of an adapter, ordered by site, nothing read yet.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pairs: Vec<PairPlan>,
}

/// A pair on one site.
#[derive(Debug)]
pub(super) struct PairPlan {
    pub(super) site: Site,
    pub(super) module: String,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// `[rank, inputs]`
    pub(super) a: TensorInfo,
    /// `[outputs, rank]`
    pub(super) b: TensorInfo,
}

/// A module that the configuration targets, and the tensors found for it so far.
struct Target {
    site: Site,
    rank: usize,
    scale: f32,
    a: Option<TensorInfo>,
    b: Option<TensorInfo>,
}

impl Plan {
    pub(super) fn new(folder: &Folder, base: Base<'_>, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let config = &folder.config;
        check_base(config, base.hash)?;
        let Some(names) = ModuleNames::of_family(&base.spec.family) else {
            let message = format!(
                "no module names are known for a base of the family {}",
                base.spec.family
            );
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        };
        let modules: Vec<(Site, String)> = names.modules(base.spec).collect();
        check_targets_exist(config, &modules, base.spec.layers.len())?;
        let mut targets = targets(config, &modules, limits)?;
        for (name, info) in folder.header.tensors() {
            place(name, info, &mut targets, base.spec)?;
        }
        let pairs = targets.into_iter().map(|(module, target)| target.into_pair(module));
        let mut pairs: Vec<PairPlan> = pairs.collect::<Result<_, _>>()?;
        pairs.sort_unstable_by_key(|pair| pair.site);
        if pairs.iter().all(|pair| pair.scale == 0.0) {
            let message =
                "adapter_config.json: expected a scale that is not zero, got lora_alpha 0: the adapter changes nothing";
            return Err(AdapterError::new(Code::ZeroDelta, message));
        }
        Ok(Self { pairs })
    }

    pub(super) fn max_rank(&self) -> usize {
        self.pairs.iter().map(|pair| pair.rank).max().unwrap_or(0)
    }

    pub(super) fn tensor_bytes(&self) -> u64 {
        let tensors = self.pairs.iter().flat_map(|pair| [&pair.a, &pair.b]);
        tensors.map(|tensor| tensor.range.len() as u64).sum()
    }
}

fn check_base(config: &AdapterConfig, base: ContentHash) -> Result<(), AdapterError> {
    match config.base_hash.map(ContentHash) {
        Some(recorded) if recorded != base => {
            let message =
                format!("adapter_config.json: rootstock_base_hash: expected the served base {base}, got {recorded}");
            Err(AdapterError::new(Code::WrongBase, message))
        }
        _ => Ok(()),
    }
}

/// A name or layer that means nothing here was meant for another base.
fn check_targets_exist(config: &AdapterConfig, modules: &[(Site, String)], layers: usize) -> Result<(), AdapterError> {
    for name in config.target_names().into_iter().flatten() {
        if !modules.iter().any(|(_, module)| names_module(name, module)) {
            let example = modules.first().map_or("none", |(_, module)| module);
            let message = format!(
                "adapter_config.json: target_modules: expected names of the base's linear maps (as in {example}), got {name:?}, \
                 which matches none"
            );
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        }
    }
    let last = config.target_layers().and_then(<[u64]>::last).copied();
    match last {
        Some(layer) if layer >= layers as u64 => {
            let message =
                format!("adapter_config.json: layers_to_transform: expected layers below {layers}, got {layer}");
            Err(AdapterError::new(Code::UnmappedTensor, message))
        }
        _ => Ok(()),
    }
}

fn targets(
    config: &AdapterConfig,
    modules: &[(Site, String)],
    limits: AdapterLimits,
) -> Result<BTreeMap<String, Target>, AdapterError> {
    let mut targets = BTreeMap::new();
    for (site, module) in modules.iter().filter(|(_, module)| config.targets(module)) {
        let rank = config.rank_for(module);
        if rank > limits.max_rank {
            let message = format!(
                "adapter_config.json: rank of {module}: expected at most {}, got {rank}",
                limits.max_rank
            );
            return Err(AdapterError::new(Code::RankTooLarge, message));
        }
        let scale = config.scale_for(module);
        if !scale.is_finite() {
            let message = format!("adapter_config.json: scale of {module}: expected a finite f32, got {scale}");
            return Err(AdapterError::new(Code::NotFinite, message));
        }
        let target = Target {
            site: *site,
            rank,
            scale,
            a: None,
            b: None,
        };
        targets.insert(module.clone(), target);
    }
    if targets.is_empty() {
        let message =
            "adapter_config.json: target_modules: expected modules of the base, got a target that matches none";
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    }
    Ok(targets)
}

/// Puts a tensor into its pair.
fn place(
    name: &str,
    info: &TensorInfo,
    targets: &mut BTreeMap<String, Target>,
    spec: &ArchSpec,
) -> Result<(), AdapterError> {
    let split = split_tensor_name(name);
    let found = split.and_then(|(module, side)| Some((targets.get_mut(module)?, side)));
    let Some((target, side)) = found else {
        let shown: String = name.chars().take(200).collect();
        let message = format!(
            "{WEIGHTS}: tensor {shown}: expected lora_A.weight or lora_B.weight of a linear map that the base has and \
             target_modules names, got another name of shape {:?}",
            info.shape
        );
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    let Some((inputs, outputs)) = spec.shape(target.site) else {
        let message = format!(
            "{WEIGHTS}: tensor {name}: expected a layer of the base, got {}",
            target.site
        );
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    let (expected, place) = match side {
        Side::A => ([target.rank, inputs], &mut target.a),
        Side::B => ([outputs, target.rank], &mut target.b),
    };
    if info.shape != expected {
        let message = format!(
            "{WEIGHTS}: tensor {name}: expected shape {expected:?} (rank {}), got {:?}",
            target.rank, info.shape
        );
        return Err(AdapterError::new(Code::ShapeMismatch, message));
    }
    *place = Some(info.clone());
    Ok(())
}

impl Target {
    fn into_pair(self, module: String) -> Result<PairPlan, AdapterError> {
        let (a, b) = match (self.a, self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => return Err(half_pair(&module, Side::B, Side::A)),
            (None, Some(_)) => return Err(half_pair(&module, Side::A, Side::B)),
            (None, None) => {
                let message = format!(
                    "{WEIGHTS}: {module}: expected a pair of tensors, as target_modules names it, got none ({} is missing)",
                    tensor_name(&module, Side::A)
                );
                return Err(AdapterError::new(Code::UnmappedTensor, message));
            }
        };
        Ok(PairPlan {
            site: self.site,
            module,
            rank: self.rank,
            scale: self.scale,
            a,
            b,
        })
    }
}

fn half_pair(module: &str, missing: Side, present: Side) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected beside {}, got none",
        tensor_name(module, missing),
        tensor_name(module, present)
    );
    AdapterError::new(Code::HalfPair, message)
}
