//! What the tensors of one linear map become: pairs with their magnitudes and biases, matrices.

use rootstock_formats::peft::ModuleKind;

use super::assembly::{Assembly, Want};
use super::slots::{Slot, Slots, half, no_pair};
use super::{EffectPlan, Piece, Tensor, pairs};
use crate::adapter::container::{CONFIG, WEIGHTS};
use crate::adapter::modules::Map;
use crate::adapter::{AdapterError, AdapterErrorCode as Code, BiasKind};

impl<'a> Assembly<'a, '_> {
    /// A tensor of the embedding that a tied output layer shares.
    pub(super) fn of_tied_embedding(&self, kind: ModuleKind, slot: Slot) -> Option<Tensor<'a>> {
        let shares = kind == ModuleKind::Output && self.keeps_ties();
        self.embedding.get(&slot).copied().filter(|_| shares)
    }

    pub(super) fn pair(&mut self, path: &str, map: &Map, slots: &mut Slots<'a>) -> Result<(), AdapterError> {
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
    pub(super) fn check_base_weight(&self, weight: Tensor<'a>, want: Want) -> Result<(), AdapterError> {
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

    pub(super) fn matrix(&mut self, map: &Map, weight: Tensor<'a>) -> Result<(), AdapterError> {
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

    pub(super) fn bias(&mut self, map: &Map, bias: Tensor<'a>, kind: BiasKind) -> Result<(), AdapterError> {
        bias.expect_shape(&[map.outputs], "")?;
        let parts = map.parts.iter().map(|part| EffectPlan::Bias {
            site: part.site,
            kind,
            values: bias.piece(part.outputs.clone()),
        });
        self.effects.extend(parts);
        Ok(())
    }
}
