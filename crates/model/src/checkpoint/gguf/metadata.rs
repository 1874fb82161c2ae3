//! GGUF metadata to [`ArchSpec`]: every key of the family is read, or known to have no effect, or refused by name.

use rootstock_formats::gguf::{Gguf, required};

use super::super::Refusal;
use super::super::shards::Shards;
use super::family::{self, Family, FeedForwardLayout, Positions, Windows};
use super::keys::{Keys, LARGEST_SIZE, PerLayer};
use super::names;
use super::rotary::Rotary;
use crate::{ArchSpec, AttentionSpec, FeedForward, LayerSpec, NormKind, NormSpec, Position, Projection, ProjectionSet};

/// The family that the file says it belongs to.
pub(super) fn family(gguf: &Gguf) -> Result<&'static Family, Refusal> {
    let key = "general.type";
    if let Some(kind) = gguf.get_str(key)?.filter(|&kind| kind != "model") {
        return Err(Refusal::unsupported(format_args!(
            "{key}: {kind:?} is not a base model (supported: \"model\")"
        )));
    }
    let key = "general.architecture";
    let name = required(key, gguf.get_str(key)?)?;
    Family::named(name).ok_or_else(|| {
        let supported = family::names().collect::<Vec<_>>().join(", ");
        Refusal::unsupported(format_args!(
            "{key}: {name:?} is not supported (supported: {supported})"
        ))
    })
}

/// The architecture that the metadata and the tensors describe.
pub(super) fn spec(gguf: &Gguf, family: &'static Family, shards: &Shards) -> Result<ArchSpec, Refusal> {
    let keys = Keys::new(gguf, family);
    let layers = layer_count(&keys, shards)?;
    let hidden_size = keys.size("embedding_length")?;
    let heads = Heads::read(&keys, hidden_size, layers)?;
    let sights = Sights::read(&keys, shards, &heads, layers)?;
    let inner_sizes = keys.sizes("feed_forward_length", layers)?;
    let inner_sizes = required(&format!("{}.feed_forward_length", family.name), inner_sizes)?;
    let layer = |layer: usize| LayerSpec {
        attention: heads.attention(family, layer, &sights),
        feed_forward: feed_forward(family, inner_sizes[layer]),
        post_norms: family.post_norms,
        biases: biases(family, shards, layer),
    };
    let spec = ArchSpec {
        family: family.name.to_owned(),
        vocab_size: vocab_size(&keys, shards)?,
        hidden_size,
        context_length: sights.context_length,
        embedding_scale: if family.scaled_embedding {
            (hidden_size as f32).sqrt()
        } else {
            1.0
        },
        position_embeddings: (family.positions == Positions::Learned).then_some(sights.context_length),
        norm: norm(&keys)?,
        tied_output: shards.tensor(names::OUTPUT).is_none(),
        layers: (0..layers).map(layer).collect(),
    };
    keys.refuse_unread()?;
    Ok(spec)
}

/// Checked against the number of tensors before anything is allocated per layer.
fn layer_count(keys: &Keys<'_>, shards: &Shards) -> Result<usize, Refusal> {
    let (key, tensors) = ("block_count", shards.len());
    match keys.size(key)? {
        layers if layers > tensors => {
            Err(keys.unsupported(key, layers, format_args!("at most the {tensors} tensors of the model")))
        }
        layers => Ok(layers),
    }
}

/// Rows of the embedding, which the metadata may repeat.
fn vocab_size(keys: &Keys<'_>, shards: &Shards) -> Result<usize, Refusal> {
    let name = names::EMBEDDING;
    let rows = match shards.tensor(name).map(|(info, _)| info.shape.as_slice()) {
        Some(&[rows, _]) if rows <= LARGEST_SIZE => rows,
        Some(shape) => return Err(Refusal::unsupported(format_args!("tensor {name}: shape {shape:?}"))),
        None => return Err(Refusal::unsupported(format_args!("tensor {name} is missing"))),
    };
    let stated = keys.size_or("vocab_size", rows)?;
    if stated != rows {
        return Err(keys.unsupported("vocab_size", stated, format_args!("{rows}, the rows of {name}")));
    }
    Ok(rows)
}

fn norm(keys: &Keys<'_>) -> Result<NormSpec, Refusal> {
    let kind = keys.family.norm;
    let epsilon = keys.positive(match kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    })?;
    Ok(NormSpec { kind, epsilon })
}

fn feed_forward(family: &Family, inner_size: usize) -> FeedForward {
    let activation = family.activation;
    match family.feed_forward {
        FeedForwardLayout::Gated | FeedForwardLayout::GateInUp => FeedForward::Gated { inner_size, activation },
        FeedForwardLayout::Plain => FeedForward::Plain { inner_size, activation },
    }
}

/// The maps with a bias: those of the family, and those that the file has a tensor for.
fn biases(family: &Family, shards: &Shards, layer: usize) -> ProjectionSet {
    let has = |name: String| shards.tensor(&name).is_some();
    let in_file = |projection: Projection| {
        has(names::projection(layer, projection, "bias"))
            || names::fused(family, projection).is_some_and(|fused| has(fused.name(layer, "bias")))
    };
    let all = Projection::ALL.into_iter();
    all.filter(|projection| family.biases.contains(projection) || in_file(*projection))
        .collect()
}

/// Sizes of attention in each layer.
struct Heads {
    heads: Vec<usize>,
    kv_heads: Vec<usize>,
    head_dim: usize,
    scale: f32,
}

impl Heads {
    fn read(keys: &Keys<'_>, hidden_size: usize, layers: usize) -> Result<Self, Refusal> {
        let heads = keys.sizes("attention.head_count", layers)?;
        let heads = required(&format!("{}.attention.head_count", keys.family.name), heads)?;
        let kv_heads = keys
            .sizes("attention.head_count_kv", layers)?
            .unwrap_or_else(|| heads.clone());
        for (heads, kv_heads) in heads.iter().zip(&kv_heads) {
            if heads % kv_heads != 0 {
                return Err(keys.unsupported(
                    "attention.head_count_kv",
                    kv_heads,
                    format_args!("a divisor of {heads}"),
                ));
            }
        }
        let share = hidden_size / heads[0];
        let head_dim = keys.size_or("attention.key_length", share)?;
        let odd = keys.family.positions != Positions::Learned && head_dim % 2 != 0;
        if odd || head_dim == 0 {
            return Err(keys.unsupported("attention.key_length", head_dim, "an even width"));
        }
        let value = keys.size_or("attention.value_length", head_dim)?;
        if value != head_dim {
            return Err(keys.unsupported(
                "attention.value_length",
                value,
                format_args!("that of a key, {head_dim}"),
            ));
        }
        let scaled_by = if keys.family.scaled_by_share == Some(layers) {
            share
        } else {
            head_dim
        };
        Ok(Self {
            heads,
            kv_heads,
            head_dim,
            scale: (1.0 / (scaled_by as f64).sqrt()) as f32,
        })
    }

    fn attention(&self, family: &Family, layer: usize, sights: &Sights) -> AttentionSpec {
        AttentionSpec {
            heads: self.heads[layer],
            kv_heads: self.kv_heads[layer],
            head_dim: self.head_dim,
            scale: self.scale,
            position: sights.position(family, layer),
            window: sights.windows[layer],
            head_norms: family.head_norms,
        }
    }
}

/// What the layers see, and how positions enter them.
struct Sights {
    windows: Vec<Option<usize>>,
    full: Position,
    windowed: Position,
    context_length: usize,
}

impl Sights {
    fn read(keys: &Keys<'_>, shards: &Shards, heads: &Heads, layers: usize) -> Result<Self, Refusal> {
        let windows = windows(keys, layers)?;
        let context_length = keys.size("context_length")?;
        if keys.family.positions == Positions::Learned {
            return Ok(Self {
                windows,
                full: Position::None,
                windowed: Position::None,
                context_length,
            });
        }
        let rotary = Rotary::read(keys, shards, heads.head_dim, context_length)?;
        Ok(Self {
            windows,
            full: rotary.full,
            windowed: rotary.windowed,
            context_length: rotary.context_length,
        })
    }

    fn position(&self, family: &Family, layer: usize) -> Position {
        match self.windows[layer] {
            _ if family
                .without_rotary
                .is_some_and(|every| (layer + 1).is_multiple_of(every)) =>
            {
                Position::None
            }
            Some(_) => self.windowed.clone(),
            None => self.full.clone(),
        }
    }
}

/// The window of each layer. The pattern is a period, of which the last layer sees everything, or a flag per layer.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, Refusal> {
    let window = keys.size_or_zero("attention.sliding_window")?;
    let key = "attention.sliding_window_pattern";
    let period = match keys.family.windows {
        Windows::Every => 0,
        Windows::AllBut(every) => every as u64,
    };
    let slides: Vec<bool> = match keys.per_layer(key, layers)?.unwrap_or(PerLayer::One(period)) {
        PerLayer::One(0) => vec![true; layers],
        PerLayer::One(period) => (1..)
            .take(layers)
            .map(|number: u64| !number.is_multiple_of(period))
            .collect(),
        PerLayer::Each(flags) => flags.iter().map(|&flag| flag != 0).collect(),
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}
