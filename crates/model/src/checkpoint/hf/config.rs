//! config.json to [`ArchSpec`]: every field of the family is read, or known to have no effect, or refused by name.

use super::super::Refusal;
use super::family::{FIXED, Family, INERT, Positions};
use super::fields::{Fields, LARGEST_SIZE};
use super::rope::{self, Rotary, Stated};
use super::windows::{self, Sight};
use crate::{Activation, ArchSpec, AttentionSpec, FeedForward, LayerSpec, NormSpec, Position, ProjectionSet};

/// The family that `model_type` names.
pub(super) fn family(fields: &Fields) -> Result<&'static Family, Refusal> {
    let model_type = fields.text("model_type")?;
    Family::named(model_type).ok_or_else(|| {
        let supported: Vec<_> = super::architectures().collect();
        fields.unsupported("model_type", format_args!("{model_type:?}"), supported.join(", "))
    })
}

/// The architecture that `fields` describe; a checkpoint of `tensors` tensors has no more layers than that.
pub(super) fn spec(fields: &Fields, family: &Family, tensors: usize) -> Result<ArchSpec, Refusal> {
    let sizes = Sizes::read(fields, family, tensors)?;
    let sights = windows::sights(fields, family.windows, sizes.layers)?;
    let rotations = Rotations::read(fields, family, &sizes)?;
    let feed_forward = feed_forward(fields, family, &sizes)?;
    let biases = biases(fields, family)?;
    let scale = score_scale(fields, family, &sizes)?;
    let layer = |sight: &Sight| LayerSpec {
        attention: AttentionSpec {
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            scale,
            position: rotations.of(sight),
            window: sight.window,
            head_norms: family.head_norms,
        },
        feed_forward: feed_forward.clone(),
        post_norms: family.post_norms,
        biases,
    };
    let learned = matches!(family.positions, Positions::Learned);
    let spec = ArchSpec {
        family: family.model_type.to_owned(),
        vocab_size: fields.size("vocab_size")?,
        hidden_size: sizes.hidden,
        context_length: rotations.positions,
        embedding_scale: embedding_scale(family, &sizes),
        position_embeddings: learned.then_some(sizes.positions),
        norm: norm(fields, family)?,
        tied_output: fields.flag("tie_word_embeddings")?,
        layers: sights.iter().map(layer).collect(),
    };
    fields.refuse_unread(&[FIXED, family.fixed].concat(), &[INERT, family.inert])?;
    Ok(spec)
}

/// Factor on scores: one over the root of the width of a head, or of what the family states instead.
fn score_scale(fields: &Fields, family: &Family, sizes: &Sizes) -> Result<f32, Refusal> {
    let Some(field) = family.score_width else {
        return Ok((1.0 / (sizes.head_dim as f64).sqrt()) as f32);
    };
    let width = fields.positive(field)?;
    let scale = (1.0 / width.sqrt()) as f32;
    if scale == 0.0 || !scale.is_finite() {
        return Err(fields.unsupported(field, width, "a width whose root is a single-precision number"));
    }
    Ok(scale)
}

fn embedding_scale(family: &Family, sizes: &Sizes) -> f32 {
    match family.scaled_embedding {
        true => (sizes.hidden as f64).sqrt() as f32,
        false => 1.0,
    }
}

/// The sizes of every layer.
struct Sizes {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    positions: usize,
}

impl Sizes {
    fn read(fields: &Fields, family: &Family, tensors: usize) -> Result<Self, Refusal> {
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let layers = fields.size("num_hidden_layers")?;
        if layers > tensors {
            let most = format_args!("at most the {tensors} tensors of the checkpoint");
            return Err(fields.unsupported("num_hidden_layers", layers, most));
        }
        let positions = fields.size("max_position_embeddings")?;
        let learned = matches!(family.positions, Positions::Learned);
        // The size of GPT-2's causal mask, of which newer files say nothing.
        let mask = if learned { fields.optional_size("n_ctx")? } else { None };
        if let Some(mask) = mask.filter(|mask| *mask != positions) {
            return Err(fields.contradiction("n_ctx", mask, "the number of positions"));
        }
        let kv_heads = if learned {
            heads
        } else {
            fields.optional_size("num_key_value_heads")?.unwrap_or(heads)
        };
        if heads % kv_heads != 0 {
            let divisor = format_args!("a divisor of the {heads} attention heads");
            return Err(fields.unsupported("num_key_value_heads", kv_heads, divisor));
        }
        Ok(Self {
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim: head_dim(fields, hidden, heads, learned)?,
            positions,
        })
    }
}

fn head_dim(fields: &Fields, hidden: usize, heads: usize, learned: bool) -> Result<usize, Refusal> {
    let stated = if learned {
        None
    } else {
        fields.optional_size("head_dim")?
    };
    let head_dim = match stated {
        Some(stated) => stated,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let divisor = format_args!("a divisor of the hidden size, {hidden}");
            return Err(fields.unsupported("num_attention_heads", heads, divisor));
        }
    };
    if !learned && head_dim % 2 != 0 {
        return Err(fields.unsupported("head_dim", head_dim, "an even width"));
    }
    Ok(head_dim)
}

fn norm(fields: &Fields, family: &Family) -> Result<NormSpec, Refusal> {
    let epsilon = fields.positive("rms_norm_eps")? as f32;
    if epsilon == 0.0 || !epsilon.is_finite() {
        return Err(fields.unsupported("rms_norm_eps", epsilon, "a positive single-precision number"));
    }
    Ok(NormSpec {
        kind: family.norm,
        epsilon,
    })
}

fn feed_forward(fields: &Fields, family: &Family, sizes: &Sizes) -> Result<FeedForward, Refusal> {
    let inner_size = match fields.optional_size("intermediate_size")? {
        Some(size) => size,
        // GPT-2's default.
        None if !family.gated => 4 * sizes.hidden,
        None => fields.size("intermediate_size")?,
    };
    if inner_size > LARGEST_SIZE {
        return Err(fields.unsupported("intermediate_size", inner_size, format_args!("at most {LARGEST_SIZE}")));
    }
    let activation = activation(fields)?;
    Ok(if family.gated {
        FeedForward::Gated { inner_size, activation }
    } else {
        FeedForward::Plain { inner_size, activation }
    })
}

/// Activations as transformers names them.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
];

fn activation(fields: &Fields) -> Result<Activation, Refusal> {
    let name = fields.text("hidden_act")?;
    let known = ACTIVATIONS.iter().find(|(known, _)| *known == name);
    known.map(|(_, activation)| *activation).ok_or_else(|| {
        let supported = ACTIVATIONS.map(|(name, _)| name).join(", ");
        fields.unsupported("hidden_act", format_args!("{name:?}"), supported)
    })
}

fn biases(fields: &Fields, family: &Family) -> Result<ProjectionSet, Refusal> {
    let mut biases = ProjectionSet::NONE;
    for rule in family.biases {
        if rule.when.map_or(Ok(true), |field| fields.flag(field))? {
            biases = rule
                .projections
                .iter()
                .fold(biases, |set, projection| set.with(*projection));
        }
    }
    Ok(biases)
}

/// How positions enter the layers.
struct Rotations {
    full: Position,
    sliding: Position,
    /// Positions up to which the model is served.
    positions: usize,
}

impl Rotations {
    fn read(fields: &Fields, family: &Family, sizes: &Sizes) -> Result<Self, Refusal> {
        let stated = |parameters, base, rule| Stated {
            config: fields,
            parameters,
            base,
            rule,
            head_dim: sizes.head_dim,
            positions: sizes.positions,
        };
        let (full, sliding) = match &family.positions {
            Positions::Learned => {
                let none = || Rotary {
                    position: Position::None,
                    positions: sizes.positions,
                };
                (none(), none())
            }
            Positions::Rotary(rule) => {
                let rotary = stated(rope::parameters(fields)?, "rope_theta", rule).rotary()?;
                (rotary.clone(), rotary)
            }
            Positions::RotaryByWindow { full, sliding } => {
                let (of_full, of_sliding) = rope::parameters_by_window(fields)?;
                (
                    stated(of_full, "rope_theta", full).rotary()?,
                    stated(of_sliding, "rope_local_base_freq", sliding).rotary()?,
                )
            }
        };
        Ok(Self {
            positions: full.positions.min(sliding.positions),
            full: full.position,
            sliding: sliding.position,
        })
    }

    fn of(&self, sight: &Sight) -> Position {
        match sight {
            Sight { rotary: false, .. } => Position::None,
            Sight { window: Some(_), .. } => self.sliding.clone(),
            Sight { window: None, .. } => self.full.clone(),
        }
    }
}
