//! Rotary embeddings as GGUF describes them: base, width and scaling in the metadata, factors on the wave lengths in
//! tensors. All of it is folded into one angle per position and pair, and a magnitude.

use rootstock_formats::DType;

use super::super::Refusal;
use super::super::rotary::{Yarn, plain_angles, position};
use super::super::shards::Shards;
use super::family::{Positions, Windows};
use super::keys::Keys;
use crate::Position;

/// llama.cpp's default for `rope.freq_base` and for `rope.freq_base_swa`.
pub(super) const DEFAULT_BASE: f32 = 10_000.0;
/// Factors on the wave lengths (Llama 3).
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Factors for sequences up to the original context (LongRoPE; Ding et al., 2024), and beyond it.
const SHORT_FACTORS: &str = "rope_factors_short.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// Tensors that [`Rotary::read`] folds into the architecture.
pub(super) const TENSORS: [&str; 3] = [FACTORS, SHORT_FACTORS, LONG_FACTORS];

/// The rotary embeddings of a model.
pub(super) struct Rotary {
    /// Of layers that see everything before them.
    pub(super) full: Position,
    /// Of layers with a window.
    pub(super) windowed: Position,
    /// Positions up to which the angles hold.
    pub(super) context_length: usize,
}

/// Scaling of the angles of one embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaling {
    None,
    /// Divided by a factor (Chen et al., 2023).
    Linear(f64),
    Yarn(Yarn),
}

impl Rotary {
    /// Reads the embeddings for heads of `head_dim`; `context_length` is what the metadata states.
    pub(super) fn read(
        keys: &Keys<'_>,
        shards: &Shards,
        head_dim: usize,
        context_length: usize,
    ) -> Result<Self, Refusal> {
        let width = width(keys, head_dim)?;
        let original = keys.size_or("rope.scaling.original_context_length", context_length)?;
        let scaling = scaling(keys, shards, original)?;
        let full_base = base(keys, "rope.freq_base")?;
        let factors = factors(shards, width / 2)?;
        let magnitude = f64::from(keys.optional_positive("rope.scaling.attn_factor")?.unwrap_or(1.0));
        let full = rotary(
            &scaling.angles(full_base, width, factors.as_deref()),
            magnitude * scaling.magnitude(),
        )?;
        let windowed = match keys.family.windows {
            Windows::Every => full.clone(),
            Windows::AllBut(_) => {
                let base = base(keys, "rope.freq_base_swa")?;
                rotary(&Scaling::None.angles(base, width, None), 1.0)?
            }
        };
        let long = shards.tensor(LONG_FACTORS).is_some();
        Ok(Self {
            full,
            windowed,
            context_length: if long {
                context_length.min(original)
            } else {
                context_length
            },
        })
    }
}

fn rotary(angles: &[f64], magnitude: f64) -> Result<Position, Refusal> {
    position(angles, magnitude)
        .ok_or_else(|| Refusal::unsupported("rope: base, scaling and factors do not give finite angles"))
}

/// Elements of a head that rotate.
fn width(keys: &Keys<'_>, head_dim: usize) -> Result<usize, Refusal> {
    let key = "rope.dimension_count";
    let width = keys.size_or(key, head_dim)?;
    // Interleaved rows are put back head by head, which is the same only if the whole head rotates.
    if keys.family.positions == Positions::Interleaved && width != head_dim {
        return Err(keys.unsupported(key, width, format_args!("the width of a head, {head_dim}")));
    }
    if width > head_dim || width % 2 != 0 {
        return Err(keys.unsupported(
            key,
            width,
            format_args!("an even width up to that of a head, {head_dim}"),
        ));
    }
    Ok(width)
}

fn base(keys: &Keys<'_>, key: &'static str) -> Result<f64, Refusal> {
    match keys.optional_positive(key)?.unwrap_or(DEFAULT_BASE) {
        base if base <= 1.0 => Err(keys.unsupported(key, base, "above 1")),
        base => Ok(f64::from(base)),
    }
}

/// What `rope.scaling.*` says, read whole so that no key of it is taken for an unknown one.
fn scaling(keys: &Keys<'_>, shards: &Shards, original: usize) -> Result<Scaling, Refusal> {
    let kind = keys.optional_text("rope.scaling.type")?.unwrap_or("linear");
    let factor = factor(keys)?;
    let yarn = Yarn {
        factor,
        original: original as f64,
        fast: f64::from(keys.optional_positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0)),
        slow: f64::from(keys.optional_positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0)),
        truncated: true,
    };
    let scaling = match kind {
        "none" => Scaling::None,
        "linear" if factor == 1.0 => Scaling::None,
        "linear" => Scaling::Linear(factor),
        "yarn" => Scaling::Yarn(yarn),
        "longrope" if factor != 1.0 => {
            return Err(keys.unsupported("rope.scaling.factor", factor, "none beside factors per pair"));
        }
        "longrope" if shards.tensor(SHORT_FACTORS).is_none() => return Err(missing(SHORT_FACTORS)),
        "longrope" => Scaling::None,
        other => {
            let supported = "none, linear, yarn, longrope";
            return Err(keys.unsupported("rope.scaling.type", format_args!("{other:?}"), supported));
        }
    };
    refuse_disputed(keys, scaling)?;
    Ok(scaling)
}

/// Zero and absence stand for 1.
fn factor(keys: &Keys<'_>) -> Result<f64, Refusal> {
    let (key, old) = ("rope.scaling.factor", "rope.scale_linear");
    let (factor, before) = (keys.optional_number(key)?, keys.optional_number(old)?);
    match factor.or(before).unwrap_or(0.0) {
        0.0 => Ok(1.0),
        factor if factor > 0.0 => Ok(f64::from(factor)),
        factor => Err(keys.unsupported(key, factor, "a positive number")),
    }
}

/// Keys whose meaning the readers of GGUF do not agree on are accepted where every meaning gives the same numbers.
fn refuse_disputed(keys: &Keys<'_>, scaling: Scaling) -> Result<(), Refusal> {
    // transformers' magnitude in place of the formula; llama.cpp writes it and does not read it.
    let key = "rope.scaling.yarn_attn_factor";
    let magnitude = scaling.magnitude();
    match keys.optional_number(key)? {
        Some(stated) if (f64::from(stated) - magnitude).abs() > 1e-5 * magnitude => {
            let supported = format_args!("{magnitude}, what the factor gives");
            return Err(keys.unsupported(key, stated, supported));
        }
        _ => {}
    }
    // How much of the blend applies; below zero stands for all of it.
    let key = "rope.scaling.yarn_ext_factor";
    match keys.optional_number(key)? {
        Some(stated) if stated >= 0.0 && matches!(scaling, Scaling::Yarn(_)) && stated != 1.0 => {
            Err(keys.unsupported(key, stated, 1))
        }
        Some(stated) if stated > 0.0 && !matches!(scaling, Scaling::Yarn(_)) => {
            Err(keys.unsupported(key, stated, "0 without yarn"))
        }
        _ => Ok(()),
    }
}

impl Scaling {
    /// Angle per position of each pair, over the pair's factor, scaled.
    fn angles(self, base: f64, width: usize, factors: Option<&[f32]>) -> Vec<f64> {
        let mut angles = plain_angles(base, width);
        for (angle, &factor) in angles.iter_mut().zip(factors.unwrap_or_default()) {
            *angle /= f64::from(factor);
        }
        match self {
            Self::None => angles,
            Self::Linear(factor) => angles.into_iter().map(|angle| angle / factor).collect(),
            Self::Yarn(yarn) => yarn.angles(&angles, base),
        }
    }

    fn magnitude(self) -> f64 {
        match self {
            Self::Yarn(yarn) => Yarn::magnitude(yarn.factor, 1.0),
            Self::None | Self::Linear(_) => 1.0,
        }
    }
}

/// The factors on the wave lengths of `pairs` pairs, if the file has any.
fn factors(shards: &Shards, pairs: usize) -> Result<Option<Vec<f32>>, Refusal> {
    let read = |name: &str| shards.tensor(name).map(|_| positives(shards, name, pairs)).transpose();
    let (all, short, long) = (read(FACTORS)?, read(SHORT_FACTORS)?, read(LONG_FACTORS)?);
    match (all, short, long) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(Refusal::unsupported(format_args!(
            "tensor {FACTORS}: expected no factors by length beside it, got {SHORT_FACTORS} or {LONG_FACTORS}"
        ))),
        // Sequences beyond the original context are not served, so that one set of factors holds for all.
        (None, None, Some(_)) => Err(missing(SHORT_FACTORS)),
        (all, short, _) => Ok(all.or(short)),
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::unsupported(format_args!("tensor {name} is missing"))
}

fn positives(shards: &Shards, name: &str, count: usize) -> Result<Vec<f32>, Refusal> {
    let (info, bytes) = shards.tensor(name).ok_or_else(|| missing(name))?;
    if info.dtype != DType::F32 || info.shape != [count] {
        let (shape, dtype) = (&info.shape, info.dtype);
        return Err(Refusal::unsupported(format_args!(
            "tensor {name}: expected F32 of shape [{count}], got {dtype} of shape {shape:?}"
        )));
    }
    let values: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect();
    match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => Err(Refusal::unsupported(format_args!(
            "tensor {name}: expected positive factors, got {value}"
        ))),
        None => Ok(values),
    }
}
