//! The effects of a PEFT folder, decided module by module from what its configuration asks and what its file holds.

use std::collections::BTreeMap;

use rootstock_formats::peft::{AdapterConfig, ModuleKind, TrainedBiases};

use super::slots::{Slot, Slots, missing};
use super::{EffectPlan, Piece, Tensor, check_rank, check_scale, unmapped};
use crate::adapter::container::CONFIG;
use crate::adapter::modules::{Map, ModuleRole, Modules};
use crate::adapter::names::ModuleNames;
use crate::adapter::{AdapterError, AdapterErrorCode as Code, AdapterLimits, BiasKind};
use crate::{ArchSpec, NormSite};

/// What the configuration asks of a module.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub(super) pair: bool,
    pub(super) saved: bool,
}

fn want(config: &AdapterConfig, path: &str, kind: ModuleKind) -> Want {
    let saved = config.saves(path);
    Want {
        pair: !saved && config.targets(path, kind),
        saved,
    }
}

/// Effects being decided.
pub(super) struct Assembly<'a, 'c> {
    pub(super) config: &'c AdapterConfig,
    names: &'static ModuleNames,
    /// Embedding and output layer of the base are one tensor.
    tied: bool,
    wants: BTreeMap<&'c str, Want>,
    /// Tensors of the embedding, which a tied output layer may share.
    pub(super) embedding: Slots<'a>,
    /// The base's own embedding and output layer, where the file replaces them.
    base_weights: BTreeMap<&'static str, Tensor<'a>>,
    pub(super) effects: Vec<EffectPlan<'a>>,
}

impl<'a, 'c> Assembly<'a, 'c> {
    /// Decides what is asked of each module, and whether that can be, before any tensor is looked at.
    pub(super) fn new(
        config: &'c AdapterConfig,
        modules: &'c Modules,
        names: &'static ModuleNames,
        spec: &ArchSpec,
        limits: AdapterLimits,
    ) -> Result<Self, AdapterError> {
        let mut assembly = Self {
            config,
            names,
            tied: spec.tied_output,
            wants: modules
                .maps()
                .map(|(path, map)| (path, want(config, path, map.kind)))
                .collect(),
            embedding: Slots::new(),
            base_weights: BTreeMap::new(),
            effects: Vec::new(),
        };
        assembly.tie();
        assembly.check_wants(spec, limits)?;
        Ok(assembly)
    }

    /// What is asked of one end of a tie that is to stay is asked of both.
    fn tie(&mut self) {
        if !self.keeps_ties() {
            return;
        }
        let both = [self.names.embedding, self.names.output];
        let [embedding, output] = both.map(|path| self.wants[path]);
        let saved = embedding.saved || output.saved;
        let pair = !saved && (embedding.pair || output.pair);
        self.wants.extend(both.map(|path| (path, Want { pair, saved })));
    }

    fn check_wants(&self, spec: &ArchSpec, limits: AdapterLimits) -> Result<(), AdapterError> {
        for (path, _) in self.wants.iter().filter(|(_, want)| want.pair) {
            check_rank(path, self.config.rank_for(path), limits, CONFIG)?;
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

    pub(super) fn keeps_ties(&self) -> bool {
        self.tied && self.config.keeps_ties
    }

    /// The effects that the tensors found for each module make.
    pub(super) fn effects(
        mut self,
        modules: &Modules,
        mut slots: Vec<Slots<'a>>,
    ) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
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
        Ok(self.effects)
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
        self.trained_bias(path, map, want, slots)
    }

    fn trained_bias(&mut self, path: &str, map: &Map, want: Want, slots: &mut Slots<'a>) -> Result<(), AdapterError> {
        let trained = match self.config.biases {
            _ if !map.biased => false,
            _ if want.saved => true,
            TrainedBiases::None => false,
            TrainedBiases::Targeted => want.pair,
            TrainedBiases::All => true,
        };
        if !trained {
            return Ok(());
        }
        let beside_pair = if want.pair { slots.remove(&Slot::BaseBias) } else { None };
        let bias = beside_pair.or_else(|| slots.remove(&Slot::Bias));
        let (slot, field) = match want {
            Want { saved: true, .. } => (Slot::Bias, "modules_to_save"),
            Want { pair: true, .. } => (
                Slot::BaseBias,
                "bias (which peft did not always save; to go without, set it to \"none\")",
            ),
            _ => (Slot::Bias, "bias"),
        };
        let bias = bias.ok_or_else(|| missing(path, slot, field))?;
        self.bias(map, bias, BiasKind::Replaces)
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
