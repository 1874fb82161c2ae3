//! Rotary embeddings as config.json describes them, in both of the styles that transformers has written: `rope_theta` with
//! `rope_scaling`, and `rope_parameters`. Every scaling is folded into the angles.

use std::f64::consts::TAU;

use super::super::Refusal;
use super::super::rotary::{self, Yarn};
use super::family::RotaryRule;
use super::fields::Fields;
use crate::Position;

/// A rotary embedding as config.json states it.
pub(super) struct Stated<'a> {
    /// The fields of the whole file.
    pub(super) config: &'a Fields,
    /// `rope_parameters`, or what a layer kind has of it, or `rope_scaling`.
    pub(super) parameters: Option<Fields>,
    /// Field of the whole file that gives the base.
    pub(super) base: &'static str,
    pub(super) rule: &'a RotaryRule,
    pub(super) head_dim: usize,
    /// `max_position_embeddings`.
    pub(super) positions: usize,
}

/// A rotary embedding.
#[derive(Clone)]
pub(super) struct Rotary {
    pub(super) position: Position,
    /// Positions up to which the angles hold.
    pub(super) positions: usize,
}

/// `rope_parameters` or `rope_scaling`, which must not contradict one another.
pub(super) fn parameters(config: &Fields) -> Result<Option<Fields>, Refusal> {
    let (new, old) = ("rope_parameters", "rope_scaling");
    match (config.value(new), config.value(old)) {
        (Some(value), Some(other)) if value != other => Err(config.contradiction(old, other, new)),
        (Some(_), _) => config.object(new),
        (None, _) => config.object(old),
    }
}

/// The parameters of layers that see everything and of those with a window (Gemma 3): nested `rope_parameters`, or
/// `rope_scaling` for the former.
pub(super) fn parameters_by_window(config: &Fields) -> Result<(Option<Fields>, Option<Fields>), Refusal> {
    let Some(nested) = config.object("rope_parameters")? else {
        return Ok((config.object("rope_scaling")?, None));
    };
    if let Some(other) = config.value("rope_scaling") {
        return Err(config.contradiction("rope_scaling", other, "rope_parameters"));
    }
    let kinds = (nested.object("full_attention")?, nested.object("sliding_attention")?);
    nested.refuse_unread(&[], &[])?;
    Ok(kinds)
}

impl Stated<'_> {
    /// The angles.
    pub(super) fn rotary(&self) -> Result<Rotary, Refusal> {
        let base = self.agreed(self.base, "rope_theta")?.unwrap_or(self.rule.base);
        if base <= 1.0 {
            return Err(self.config.unsupported(self.base, base, "above 1"));
        }
        let plain = self.plain_angles(base)?;
        let kind = self.kind()?;
        let (angles, magnitude, positions) = match (kind, &self.parameters) {
            ("default", _) | (_, None) => (plain, 1.0, self.positions),
            ("linear", Some(parameters)) => {
                let factor = parameters.positive("factor")?;
                (plain.iter().map(|angle| angle / factor).collect(), 1.0, self.positions)
            }
            ("llama3", Some(parameters)) => (self.llama3(parameters, &plain)?, 1.0, self.positions),
            ("yarn", Some(parameters)) => {
                let (angles, magnitude) = self.yarn(parameters, &plain, base)?;
                (angles, magnitude, self.positions)
            }
            (_, Some(parameters)) => self.longrope(parameters, &plain)?,
        };
        if let Some(parameters) = &self.parameters {
            parameters.refuse_unread(&[], &[])?;
        }
        let position = rotary::position(&angles, magnitude);
        let position = position.ok_or_else(|| {
            let got = "what the rope parameters give";
            self.config.unsupported(self.base, got, "finite angles")
        })?;
        Ok(Rotary { position, positions })
    }

    fn kind(&self) -> Result<&str, Refusal> {
        let Some(parameters) = &self.parameters else {
            return Ok("default");
        };
        let (new, old) = (
            parameters.optional_text("rope_type")?,
            parameters.optional_text("type")?,
        );
        let kind = match (new, old) {
            (Some(new), Some(old)) if new != old => return Err(parameters.contradiction("type", old, "rope_type")),
            (new, old) => new.or(old).unwrap_or("default"),
        };
        if !self.rule.kinds.contains(&kind) {
            return Err(parameters.unsupported("rope_type", format_args!("{kind:?}"), self.rule.kinds.join(", ")));
        }
        Ok(kind)
    }

    /// A number that the whole file and the parameters may both give.
    fn agreed(&self, outer: &str, inner: &str) -> Result<Option<f64>, Refusal> {
        let stated = self.config.optional_positive(outer)?;
        let Some(parameters) = &self.parameters else {
            return Ok(stated);
        };
        match (stated, parameters.optional_positive(inner)?) {
            (Some(outside), Some(inside)) if outside != inside => {
                Err(self
                    .config
                    .contradiction(outer, outside, format_args!("{inside} in the rope parameters")))
            }
            (outside, inside) => Ok(inside.or(outside)),
        }
    }

    /// The angles before scaling.
    fn plain_angles(&self, base: f64) -> Result<Vec<f64>, Refusal> {
        let field = "partial_rotary_factor";
        let factor = self.agreed(field, field)?.unwrap_or(1.0);
        let width = (self.head_dim as f64 * factor) as usize;
        if !width.is_multiple_of(2)
            || width == 0
            || width > self.head_dim
            || (!self.rule.partial && width != self.head_dim)
        {
            let supported = if self.rule.partial {
                "up to 1, an even part of a head"
            } else {
                "1"
            };
            return Err(self.config.unsupported(field, factor, supported));
        }
        Ok(rotary::plain_angles(base, width))
    }

    /// Positions before scaling, which the whole file may give too (Phi-3).
    fn original_positions(&self) -> Result<f64, Refusal> {
        let field = "original_max_position_embeddings";
        match self.agreed(field, field)?.unwrap_or(self.positions as f64) {
            original if original < 1.0 => Err(self.config.unsupported(field, original, "1 and more")),
            original => Ok(original),
        }
    }

    /// Llama 3.1: long waves are stretched by the factor, short ones kept, those between blended.
    fn llama3(&self, parameters: &Fields, plain: &[f64]) -> Result<Vec<f64>, Refusal> {
        let factor = parameters.positive("factor")?;
        let (low, high) = (
            parameters.positive("low_freq_factor")?,
            parameters.positive("high_freq_factor")?,
        );
        if high <= low {
            return Err(parameters.unsupported("high_freq_factor", high, format_args!("above low_freq_factor, {low}")));
        }
        let original = self.original_positions()?;
        let scaled = |&angle: &f64| {
            // Turns that this pair makes over the original positions.
            let turns = original * angle / TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            angle * (kept + (1.0 - kept) / factor)
        };
        Ok(plain.iter().map(scaled).collect())
    }

    /// YaRN (Peng et al., 2023) with transformers' readings of its fields.
    fn yarn(&self, parameters: &Fields, plain: &[f64], base: f64) -> Result<(Vec<f64>, f64), Refusal> {
        let original = self.original_positions()?;
        let factor = parameters
            .optional_positive("factor")?
            .unwrap_or(self.positions as f64 / original);
        let (fast, slow) = (
            parameters.optional_positive("beta_fast")?,
            parameters.optional_positive("beta_slow")?,
        );
        let yarn = Yarn {
            factor,
            original,
            fast: fast.unwrap_or(32.0),
            slow: slow.unwrap_or(1.0),
            truncated: parameters.value("truncate").is_none() || parameters.flag("truncate")?,
        };
        Ok((yarn.angles(plain, base), yarn_magnitude(parameters, factor)?))
    }

    /// LongRoPE (Ding et al., 2024) with the factors for short sequences, hence up to the original positions only.
    fn longrope(&self, parameters: &Fields, plain: &[f64]) -> Result<(Vec<f64>, f64, usize), Refusal> {
        let original = self.original_positions()?;
        let factors = |field| -> Result<Vec<f64>, Refusal> {
            let factors = parameters.required(field, parameters.positives(field)?)?;
            if factors.len() != plain.len() {
                let got = format!("a list of {}", factors.len());
                return Err(parameters.unsupported(
                    field,
                    got,
                    format_args!("one factor for each of {} pairs", plain.len()),
                ));
            }
            Ok(factors)
        };
        // Read for what it says about the file; sequences that need it are not served.
        factors("long_factor")?;
        let short = factors("short_factor")?;
        let factor = parameters
            .optional_positive("factor")?
            .unwrap_or(self.positions as f64 / original);
        let magnitude = match parameters.optional_positive("attention_factor")? {
            Some(stated) => stated,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        let angles = plain.iter().zip(&short).map(|(angle, factor)| angle / factor).collect();
        Ok((angles, magnitude, self.positions.min(original as usize)))
    }
}

/// YaRN's factor on queries and keys.
fn yarn_magnitude(parameters: &Fields, factor: f64) -> Result<f64, Refusal> {
    let scale = |weight| Yarn::magnitude(factor, weight);
    let weights = (
        parameters.optional_positive("mscale")?,
        parameters.optional_positive("mscale_all_dim")?,
    );
    Ok(match (parameters.optional_positive("attention_factor")?, weights) {
        (Some(stated), _) => stated,
        (None, (Some(one), Some(all))) => scale(one) / scale(all),
        (None, _) => scale(1.0),
    })
}
