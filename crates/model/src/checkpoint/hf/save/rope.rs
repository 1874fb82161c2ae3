//! Angles of a rotary embedding to the fields of config.json that give them.

use serde_json::{Map, Value, json};

use super::super::family::RotaryRule;
use crate::Position;
use crate::checkpoint::rotary::{base_of, plain_angles};

/// A rotary embedding as config.json can state it.
pub(super) struct Rotation {
    base: f64,
    /// Share of a head that rotates.
    share: f64,
    /// What the plain angles are divided by, and the factor on what rotates, where the base alone does not say it.
    scaled: Option<(Vec<f64>, f32)>,
}

impl Rotation {
    /// `None` for a layer without one.
    pub(super) fn of(position: &Position, head_dim: usize, rule: &RotaryRule) -> Option<Self> {
        let Position::Rotary {
            inverse_frequencies: angles,
            magnitude,
        } = position
        else {
            return None;
        };
        let share = (2 * angles.len()) as f64 / head_dim as f64;
        if let Some(base) = base_of(angles, rule.base).filter(|_| *magnitude == 1.0) {
            return Some(Self {
                base,
                share,
                scaled: None,
            });
        }
        // What scaling was folded in is no longer known; LongRoPE has a factor for every pair, which says any angles.
        let plain = plain_angles(rule.base, 2 * angles.len());
        let factors = plain
            .iter()
            .zip(angles.iter())
            .map(|(plain, &angle)| plain / f64::from(angle));
        Some(Self {
            base: rule.base,
            share,
            scaled: Some((factors.collect(), *magnitude)),
        })
    }

    /// The base, where it says everything.
    pub(super) fn plain_base(&self) -> Option<f64> {
        (self.scaled.is_none() && self.share == 1.0).then_some(self.base)
    }

    /// The fields of config.json, in the style that all versions of transformers read; the angles hold for `context` positions.
    pub(super) fn fields(&self, base: &str, context: usize) -> Map<String, Value> {
        let mut fields = Map::from_iter([(base.to_owned(), self.base.into())]);
        if self.share != 1.0 {
            fields.insert("partial_rotary_factor".to_owned(), self.share.into());
        }
        if let Some((factors, magnitude)) = &self.scaled {
            let mut scaling = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors});
            // Without it the factor is 1 where the original context is the whole one.
            if *magnitude != 1.0 {
                scaling["attention_factor"] = f64::from(*magnitude).into();
            }
            scaling["original_max_position_embeddings"] = context.into();
            fields.insert("rope_scaling".to_owned(), scaling);
            fields.insert("original_max_position_embeddings".to_owned(), context.into());
        }
        fields
    }
}
