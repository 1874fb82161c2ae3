//! The effects of a PEFT folder, decided module by module from what its configuration says and what its file holds.

use std::collections::BTreeMap;

use rootstock_formats::peft::{AdapterConfig, ModuleKind, TrainedBiases, names_module};
use rootstock_formats::safetensors::SafeTensors;

use super::slots::{Slot, Slots};
use super::{EffectPlan, Piece, Tensor, check_rank, check_scale, example, pairs, unmapped};
use crate::adapter::container::{CONFIG, WEIGHTS};
use crate::adapter::error::clipped;
use crate::adapter::modules::{Map, ModuleRole, Modules};
use crate::adapter::names::ModuleNames;
use crate::adapter::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base, BiasKind};
use crate::{ArchSpec, ContentHash, NormSite};

/// Modules that transformers adds to a base for other tasks.
const TASK_HEADS: [&str; 5] = ["score", "classifier", "qa_outputs", "v_head", "summary"];

pub(super) fn effects<'a>(
    config: &AdapterConfig,
    header: &'a SafeTensors,
    base: Base<'_>,
    limits: AdapterLimits,
) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
    check_base(config, base.hash)?;
    let Some(names) = ModuleNames::of_family(&base.spec.family) else {
        let family = &base.spec.family;
        let message = format!("no module names are known for a base of the family {family}");
        return Err(AdapterError::new(Code::UnmappedTensor, message));
    };
    check_fields(config, names)?;
    let modules = Modules::new(names, base.spec);
    check_targets_exist(config, &modules, base.spec.layers.len())?;
    check_saved_exist(config, &modules)?;
    let mut assembly = Assembly {
        config,
        limits,
        names,
        tied: base.spec.tied_output,
        wants: modules
            .maps()
            .map(|(path, map)| (path, want(config, path, map.kind)))
            .collect(),
        embedding: Slots::new(),
        base_weights: BTreeMap::new(),
        effects: Vec::new(),
    };
    assembly.check_wants(base.spec)?;
    let slots = place(header, &modules)?;
    assembly.assemble(&modules, slots)?;
    Ok(assembly.effects)
}

fn check_base(config: &AdapterConfig, base: ContentHash) -> Result<(), AdapterError> {
    match config.base_hash.map(ContentHash) {
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

/// What the configuration asks of a module.
#[derive(Clone, Copy)]
struct Want {
    pair: bool,
    saved: bool,
}

fn want(config: &AdapterConfig, path: &str, kind: ModuleKind) -> Want {
    let saved = config.saves(path);
    Want {
        pair: !saved && config.targets(path, kind),
        saved,
    }
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

/// Effects being decided.
struct Assembly<'a, 'c> {
    config: &'c AdapterConfig,
    limits: AdapterLimits,
    names: &'static ModuleNames,
    /// Embedding and output layer of the base are one tensor.
    tied: bool,
    wants: BTreeMap<&'c str, Want>,
    /// Tensors of the embedding, which a tied output layer may share.
    embedding: Slots<'a>,
    /// The base's own embedding and output layer, where the file replaces them.
    base_weights: BTreeMap<&'static str, Tensor<'a>>,
    effects: Vec<EffectPlan<'a>>,
}

impl<'a> Assembly<'a, '_> {
    /// Ties what is to stay tied, and checks ranks and scales before any tensor is looked at.
    fn check_wants(&mut self, spec: &ArchSpec) -> Result<(), AdapterError> {
        if self.keeps_ties() {
            let (embedding, output) = (self.wants[self.names.embedding], self.wants[self.names.output]);
            let saved = embedding.saved || output.saved;
            let pair = !saved && (embedding.pair || output.pair);
            self.wants
                .extend([self.names.embedding, self.names.output].map(|path| (path, Want { pair, saved })));
        }
        for (path, _) in self.wants.iter().filter(|(_, want)| want.pair) {
            check_rank(path, self.config.rank_for(path), self.limits, CONFIG)?;
            check_scale(path, self.config.scale_for(path), CONFIG)?;
        }
        let positions = self.names.positions.filter(|_| spec.position_embeddings.is_some());
        if let Some(path) = positions
            && (self.config.saves(path) || self.config.targets(path, ModuleKind::Embedding))
        {
            let message = format!("{CONFIG}: {path}: learned positions cannot be changed by an adapter");
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        }
        let idle = self.wants.values().all(|want| !want.pair && !want.saved);
        if idle && self.config.saved_names().is_empty() && !self.config.targets_nothing() {
            let message =
                format!("{CONFIG}: target_modules: expected modules of the base, got a target that matches none");
            return Err(AdapterError::new(Code::UnmappedTensor, message));
        }
        Ok(())
    }

    fn keeps_ties(&self) -> bool {
        self.tied && self.config.keeps_ties
    }

    fn assemble(&mut self, modules: &Modules, mut slots: Vec<Slots<'a>>) -> Result<(), AdapterError> {
        let embedding = modules.index(self.names.embedding);
        self.embedding = embedding.map(|index| slots[index].clone()).unwrap_or_default();
        self.take_base_weights(modules, &mut slots);
        for (module, mut slots) in modules.iter().zip(slots) {
            match &module.role {
                ModuleRole::Map(map) => self.map(&module.path, map, &mut slots)?,
                ModuleRole::Norm { site, width, biased } => {
                    let width = *width;
                    self.norm(&module.path, (*site, width, *biased), &mut slots)?;
                }
                ModuleRole::Positions => {}
            }
            if let Some(tensor) = slots.values().next() {
                let expected = "a tensor that adapter_config.json asks for (target_modules, modules_to_save, bias, use_dora, \
                                lora_bias)";
                return Err(unmapped(tensor.name, tensor.info, expected));
            }
        }
        Ok(())
    }

    /// Takes the base's own embedding and output layer, which peft saves beside pairs on them or when asked to. Where the
    /// base ties them, they are one tensor.
    fn take_base_weights(&mut self, modules: &Modules, slots: &mut [Slots<'a>]) {
        let both = [self.names.embedding, self.names.output];
        let mut found = both.map(|path| {
            let slots = &mut slots[modules.index(path)?];
            let plain = if self.wants[path].saved {
                None
            } else {
                slots.remove(&Slot::Weight)
            };
            slots.remove(&Slot::BaseWeight).or(plain)
        });
        if self.tied {
            found = [found[0].or(found[1]), found[1].or(found[0])];
        }
        let unsaved = both.into_iter().zip(found).filter(|(path, _)| !self.wants[path].saved);
        self.base_weights = unsaved.filter_map(|(path, tensor)| Some((path, tensor?))).collect();
    }

    fn map(&mut self, path: &str, map: &Map, slots: &mut Slots<'a>) -> Result<(), AdapterError> {
        let want = self.wants[path];
        if want.saved {
            let weight = slots.remove(&Slot::Weight);
            let weight = weight.or_else(|| self.of_tied_embedding(map.kind, Slot::Weight));
            let weight = weight.ok_or_else(|| missing(path, Slot::Weight, "modules_to_save"))?;
            self.matrix(map, weight)?;
        } else if want.pair {
            self.pair(path, map, slots)?;
        }
        if let Some(&weight) = self.base_weights.get(path) {
            self.check_base_weight(weight, want)?;
            self.matrix(map, weight)?;
        }
        let trained = want.saved
            || match self.config.biases {
                TrainedBiases::None => false,
                TrainedBiases::Targeted => want.pair,
                TrainedBiases::All => true,
            };
        if trained && map.biased {
            let beside_pair = if want.pair { slots.remove(&Slot::BaseBias) } else { None };
            let bias = beside_pair.or_else(|| slots.remove(&Slot::Bias));
            let (slot, field) = match want {
                Want { saved: true, .. } => (Slot::Bias, "modules_to_save"),
                Want { pair: true, .. } => (
                    Slot::BaseBias,
                    "bias (which peft did not always save; without it, set it to \"none\")",
                ),
                _ => (Slot::Bias, "bias"),
            };
            let bias = bias.ok_or_else(|| missing(path, slot, field))?;
            self.bias(map, bias, BiasKind::Replaces)?;
        }
        Ok(())
    }

    /// A tensor of the embedding that a tied output layer shares.
    fn of_tied_embedding(&self, kind: ModuleKind, slot: Slot) -> Option<Tensor<'a>> {
        let shares = kind == ModuleKind::Output && self.keeps_ties();
        self.embedding.get(&slot).copied().filter(|_| shares)
    }

    fn pair(&mut self, path: &str, map: &Map, slots: &mut Slots<'a>) -> Result<(), AdapterError> {
        let rank = self.config.rank_for(path);
        let sides = match map.kind {
            ModuleKind::Embedding => [Slot::EmbeddingA, Slot::EmbeddingB],
            ModuleKind::Linear | ModuleKind::Output => [Slot::A, Slot::B],
        };
        let shared = [Slot::EmbeddingB, Slot::EmbeddingA].map(|slot| self.of_tied_embedding(map.kind, slot));
        let note = format!(" (rank {rank})");
        let (a, b) = match (sides.map(|slot| slots.remove(&slot)), shared) {
            ([Some(a), Some(b)], _) => {
                a.expect_shape(&[rank, map.inputs], &note)?;
                b.expect_shape(&[map.outputs, rank], &note)?;
                (a.whole(), b.whole())
            }
            ([Some(a), None], _) => return Err(half(path, sides[1], a)),
            ([None, Some(b)], _) => return Err(half(path, sides[0], b)),
            // peft ties lora_A of the output layer to the transposed lora_embedding_B and so on.
            ([None, None], [Some(b), Some(a)]) => {
                b.expect_shape(&[map.inputs, rank], &note)?;
                a.expect_shape(&[rank, map.outputs], &note)?;
                (b.turned(), a.turned())
            }
            ([None, None], _) => return Err(no_pair(path, sides[0])),
        };
        let magnitude = self.magnitude(path, map, slots, a.tensor)?;
        self.effects
            .extend(pairs(map, self.config.scale_for(path), &a, &b, magnitude));
        self.delta_bias(path, map, slots, a.tensor)
    }

    fn magnitude(
        &self,
        path: &str,
        map: &Map,
        slots: &mut Slots<'a>,
        beside: Tensor<'a>,
    ) -> Result<Option<Tensor<'a>>, AdapterError> {
        if !self.config.dora {
            return Ok(None);
        }
        let tensor = slots.remove(&Slot::Magnitude);
        let tensor = tensor.ok_or_else(|| half(path, Slot::Magnitude, beside))?;
        tensor.expect_shape(&[map.outputs], "")?;
        Ok(Some(tensor))
    }

    fn delta_bias(
        &mut self,
        path: &str,
        map: &Map,
        slots: &mut Slots<'a>,
        beside: Tensor<'a>,
    ) -> Result<(), AdapterError> {
        if !self.config.delta_bias {
            return Ok(());
        }
        if map.kind == ModuleKind::Embedding {
            let message = format!("{CONFIG}: lora_bias: true is not supported on {path}, an embedding, as in peft");
            return Err(AdapterError::new(Code::UnsupportedField, message));
        }
        let tensor = slots.remove(&Slot::DeltaBias);
        let tensor = tensor.ok_or_else(|| half(path, Slot::DeltaBias, beside))?;
        self.bias(map, tensor, BiasKind::Adds(self.config.scale_for(path)))
    }

    /// A base weight under a pair is part of what the pair was trained on.
    fn check_base_weight(&self, weight: Tensor<'a>, want: Want) -> Result<(), AdapterError> {
        let why = match &self.config.changed_base {
            _ if !want.pair => return Ok(()),
            Some(changed) => format!("init_lora_weights {:?}", changed.initialisation),
            None if self.config.dora => "use_dora".to_owned(),
            None => return Ok(()),
        };
        let message = format!(
            "{WEIGHTS}: tensor {}: a copy of the base's weights is not supported together with {why}; save the adapter with \
             save_embedding_layers=False",
            weight.name
        );
        Err(AdapterError::new(Code::UnsupportedField, message))
    }

    fn matrix(&mut self, map: &Map, weight: Tensor<'a>) -> Result<(), AdapterError> {
        let (outputs, inputs) = (map.outputs, map.inputs);
        let vocabulary = match map.kind {
            ModuleKind::Linear => "",
            ModuleKind::Output | ModuleKind::Embedding => " (the base's vocabulary; a resized one is not supported)",
        };
        // An embedding is a table by input.
        let by_input = map.conv1d || map.kind == ModuleKind::Embedding;
        let stored = if by_input { [inputs, outputs] } else { [outputs, inputs] };
        weight.expect_shape(&stored, vocabulary)?;
        let whole = if map.conv1d { weight.turned() } else { weight.whole() };
        for part in &map.parts {
            let rows = if map.kind == ModuleKind::Embedding {
                0..inputs
            } else {
                part.outputs.clone()
            };
            let values = Piece { rows, ..whole.clone() };
            let site = part.site;
            self.effects.push(EffectPlan::Matrix { site, values });
        }
        Ok(())
    }

    fn bias(&mut self, map: &Map, bias: Tensor<'a>, kind: BiasKind) -> Result<(), AdapterError> {
        bias.expect_shape(&[map.outputs], "")?;
        let parts = map.parts.iter().map(|part| EffectPlan::Bias {
            site: part.site,
            kind,
            values: bias.piece(part.outputs.clone()),
        });
        self.effects.extend(parts);
        Ok(())
    }

    fn norm(
        &mut self,
        path: &str,
        (site, width, biased): (NormSite, usize, bool),
        slots: &mut Slots<'a>,
    ) -> Result<(), AdapterError> {
        let saved = self.config.saves(path);
        let mut take = |wanted: bool, slot, field| -> Result<Option<Piece<'a>>, AdapterError> {
            if !wanted {
                return Ok(None);
            }
            let tensor = slots.remove(&slot).ok_or_else(|| missing(path, slot, field))?;
            tensor.expect_shape(&[width], "")?;
            Ok(Some(tensor.whole()))
        };
        let weight = take(saved, Slot::Weight, "modules_to_save")?;
        let field = if saved { "modules_to_save" } else { "bias" };
        let bias = take(
            biased && (saved || self.config.biases == TrainedBiases::All),
            Slot::Bias,
            field,
        )?;
        if weight.is_some() || bias.is_some() {
            let offset = self.names.norm_offset;
            self.effects.push(EffectPlan::Norm {
                site,
                weight,
                bias,
                offset,
            });
        }
        Ok(())
    }
}

fn half(path: &str, missing: Slot, present: Tensor<'_>) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected beside {}, got none",
        missing.name(path),
        present.name
    );
    AdapterError::new(Code::HalfPair, message)
}

fn no_pair(path: &str, first: Slot) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: {path}: expected a pair of tensors, as target_modules names it, got none ({} is missing)",
        first.name(path)
    );
    AdapterError::new(Code::UnmappedTensor, message)
}

fn missing(path: &str, slot: Slot, field: &str) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected because of {field}, got none",
        slot.name(path)
    );
    AdapterError::new(Code::HalfPair, message)
}
