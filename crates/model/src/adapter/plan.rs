//! Which tensors of the file are which pairs on which sites: every tensor maps, every targeted module has its pair,
//! every shape fits the base and the configured rank.

use std::collections::BTreeMap;

use rootstock_formats::TensorInfo;
use rootstock_formats::peft::{AdapterConfig, names_module};
use rootstock_formats::safetensors::SafeTensors;

use super::folder::WEIGHTS;
use super::names::{ModuleNames, Side};
use super::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base};
use crate::{ArchSpec, ContentHash, Site};

/// The pairs of an adapter, ordered by site, nothing read yet.
pub(super) struct Plan<'a> {
    pub(super) names: &'static ModuleNames,
    pub(super) pairs: Vec<PairPlan<'a>>,
}

/// A pair on one site.
pub(super) struct PairPlan<'a> {
    pub(super) site: Site,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// `[rank, inputs]`
    pub(super) a: &'a TensorInfo,
    /// `[outputs, rank]`
    pub(super) b: &'a TensorInfo,
}

/// A module that the configuration targets, and the tensors found for it so far.
struct Target<'a> {
    rank: usize,
    scale: f32,
    inputs: usize,
    outputs: usize,
    a: Option<&'a TensorInfo>,
    b: Option<&'a TensorInfo>,
}

type Targets<'a> = BTreeMap<Site, Target<'a>>;

impl<'a> Plan<'a> {
    pub(super) fn new(
        config: &AdapterConfig,
        header: &'a SafeTensors,
        base: Base<'_>,
        limits: AdapterLimits,
    ) -> Result<Self, AdapterError> {
        check_base(config, base.hash)?;
        let Some(names) = ModuleNames::of_family(&base.spec.family) else {
            let message = format!(
                "no module names are known for a base of the family {}",
                base.spec.family
            );
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        };
        let modules: Vec<_> = names.sites(base.spec).map(|site| (site, names.module(site))).collect();
        check_targets_exist(config, &modules, base.spec.layers.len())?;
        let mut targets = targets(config, base.spec, &modules, limits)?;
        for (name, info) in header.tensors() {
            place(name, info, &mut targets, names)?;
        }
        let pairs = targets.into_iter().map(|(site, target)| target.into_pair(site, names));
        let pairs: Vec<PairPlan<'a>> = pairs.collect::<Result<_, _>>()?;
        if pairs.iter().all(|pair| pair.scale == 0.0) {
            let message =
                "adapter_config.json: expected a scale that is not zero, got lora_alpha 0: the adapter changes nothing";
            return Err(AdapterError::new(Code::ZeroDelta, message));
        }
        Ok(Self { names, pairs })
    }

    pub(super) fn max_rank(&self) -> usize {
        self.pairs.iter().map(|pair| pair.rank).max().unwrap_or(0)
    }

    pub(super) fn tensor_bytes(&self) -> u64 {
        let tensors = self.pairs.iter().flat_map(|pair| [pair.a, pair.b]);
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
            let shown: String = name.chars().take(200).collect();
            let message = format!(
                "adapter_config.json: target_modules: expected names of the base's linear maps (as in {example}), got {shown:?}, \
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

fn targets<'a>(
    config: &AdapterConfig,
    spec: &ArchSpec,
    modules: &[(Site, String)],
    limits: AdapterLimits,
) -> Result<Targets<'a>, AdapterError> {
    let mut targets = BTreeMap::new();
    for (site, module) in modules.iter().filter(|(_, module)| config.targets(module, rootstock_formats::peft::ModuleKind::Linear)) {
        let rank = config.rank_for(module);
        if rank > limits.max_rank {
            let most = limits.max_rank;
            let message = format!("adapter_config.json: rank of {module}: expected at most {most}, got {rank}");
            return Err(AdapterError::new(Code::RankTooLarge, message));
        }
        let scale = config.scale_for(module);
        if !scale.is_finite() {
            let message = format!("adapter_config.json: scale of {module}: expected a finite f32, got {scale}");
            return Err(AdapterError::new(Code::NotFinite, message));
        }
        if let Some((inputs, outputs)) = spec.shape(*site) {
            let target = Target {
                rank,
                scale,
                inputs,
                outputs,
                a: None,
                b: None,
            };
            targets.insert(*site, target);
        }
    }
    if targets.is_empty() {
        let message =
            "adapter_config.json: target_modules: expected modules of the base, got a target that matches none";
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    }
    Ok(targets)
}

/// Puts a tensor into its pair.
fn place<'a>(
    name: &str,
    info: &'a TensorInfo,
    targets: &mut Targets<'a>,
    names: &ModuleNames,
) -> Result<(), AdapterError> {
    let split = names.split_tensor(name);
    let found = split.and_then(|(site, side)| Some((targets.get_mut(&site)?, side)));
    let Some((target, side)) = found else {
        let shown: String = name.chars().take(200).collect();
        let message = format!(
            "{WEIGHTS}: tensor {shown}: expected lora_A.weight or lora_B.weight of a linear map that the base has and \
             target_modules names, got another name of shape {:?}",
            info.shape
        );
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    let (expected, place) = match side {
        Side::A => ([target.rank, target.inputs], &mut target.a),
        Side::B => ([target.outputs, target.rank], &mut target.b),
    };
    if info.shape != expected {
        let (rank, got) = (target.rank, &info.shape);
        let message = format!("{WEIGHTS}: tensor {name}: expected shape {expected:?} (rank {rank}), got {got:?}");
        return Err(AdapterError::new(Code::ShapeMismatch, message));
    }
    *place = Some(info);
    Ok(())
}

impl<'a> Target<'a> {
    fn into_pair(self, site: Site, names: &ModuleNames) -> Result<PairPlan<'a>, AdapterError> {
        let (a, b) = match (self.a, self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => return Err(half_pair(names, site, Side::B, Side::A)),
            (None, Some(_)) => return Err(half_pair(names, site, Side::A, Side::B)),
            (None, None) => {
                let message = format!(
                    "{WEIGHTS}: {}: expected a pair of tensors, as target_modules names it, got none ({} is missing)",
                    names.module(site),
                    names.tensor(site, Side::A)
                );
                return Err(AdapterError::new(Code::UnmappedTensor, message));
            }
        };
        let (rank, scale) = (self.rank, self.scale);
        Ok(PairPlan {
            site,
            rank,
            scale,
            a,
            b,
        })
    }
}

fn half_pair(names: &ModuleNames, site: Site, missing: Side, present: Side) -> AdapterError {
    let (missing, present) = (names.tensor(site, missing), names.tensor(site, present));
    let message = format!("{WEIGHTS}: tensor {missing}: expected beside {present}, got none");
    AdapterError::new(Code::HalfPair, message)
}
