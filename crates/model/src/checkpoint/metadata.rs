//! GGUF metadata to [`ArchSpec`]: every key of the family is read, or known to have no effect, or refused by name.

use std::fmt::{self, Display};
use std::sync::Arc;

use rootstock_formats::FormatError;
use rootstock_formats::gguf::{Gguf, required};

use super::Refusal;
use super::family::{Family, Fixed};
use crate::{ArchSpec, AttentionSpec, FeedForward, LayerSpec, NormSpec, Position};

/// Sizes above this are refused: no model has them, and products of two stay far from overflow.
const LARGEST_SIZE: usize = 1 << 24;
/// llama.cpp's default for `rope.freq_base`.
const DEFAULT_ROTARY_BASE: f32 = 10_000.0;

/// The family that the file says it belongs to.
pub(super) fn family(gguf: &Gguf) -> Result<&'static Family, Refusal> {
    let key = "general.architecture";
    let name = required(key, gguf.get_str(key)?)?;
    Family::named(name).ok_or_else(|| {
        Refusal::unsupported(format_args!(
            "{key}: {name:?} is not supported (supported: {})",
            Family::names()
        ))
    })
}

/// The architecture that the metadata and the shape of the embedding describe.
pub(super) fn spec(gguf: &Gguf, family: &Family) -> Result<ArchSpec, Refusal> {
    let keys = Keys { gguf, family };
    let hidden_size = keys.size("embedding_length")?;
    let vocab_size = vocab_size(&keys)?;
    let layer = LayerSpec {
        attention: attention(&keys, hidden_size)?,
        feed_forward: FeedForward::Gated {
            inner_size: keys.size("feed_forward_length")?,
            activation: family.activation,
        },
    };
    let spec = ArchSpec {
        family: family.name.to_owned(),
        vocab_size,
        hidden_size,
        context_length: keys.size("context_length")?,
        embedding_scale: 1.0,
        norm: NormSpec {
            kind: family.norm,
            epsilon: keys.positive("attention.layer_norm_rms_epsilon", None)?,
        },
        tied_output: gguf.tensor(family.tensors.output).is_none(),
        layers: vec![layer; layer_count(&keys)?],
    };
    keys.refuse_unknown()?;
    Ok(spec)
}

/// Keys that [`spec`] reads.
const READ: [&str; 12] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

fn attention(keys: &Keys<'_>, hidden_size: usize) -> Result<AttentionSpec, Refusal> {
    let heads = keys.size("attention.head_count")?;
    let kv_heads = keys.size_or("attention.head_count_kv", heads)?;
    if heads % kv_heads != 0 {
        return Err(keys.unsupported(
            "attention.head_count_kv",
            kv_heads,
            format_args!("a divisor of {heads}"),
        ));
    }
    let head_dim = keys.size_or("attention.key_length", hidden_size / heads)?;
    if head_dim == 0 || head_dim % 2 != 0 {
        return Err(keys.unsupported("attention.key_length", head_dim, "an even width"));
    }
    for same in ["attention.value_length", "rope.dimension_count"] {
        let width = keys.size_or(same, head_dim)?;
        if width != head_dim {
            return Err(keys.unsupported(same, width, format_args!("the width of a head, {head_dim}")));
        }
    }
    let base = keys.positive("rope.freq_base", Some(DEFAULT_ROTARY_BASE))?;
    Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        position: Position::Rotary {
            inverse_frequencies: inverse_frequencies(head_dim, base),
        },
    })
}

/// `base^(-2i / head_dim)` for each pair i; Su et al., 2021.
fn inverse_frequencies(head_dim: usize, base: f32) -> Arc<[f32]> {
    let exponent = |pair: usize| -2.0 * pair as f64 / head_dim as f64;
    (0..head_dim / 2)
        .map(|pair| f64::from(base).powf(exponent(pair)) as f32)
        .collect()
}

/// Rows of the embedding, which the metadata may repeat.
fn vocab_size(keys: &Keys<'_>) -> Result<usize, Refusal> {
    let name = keys.family.tensors.embedding;
    let rows = match keys.gguf.tensor(name).map(|tensor| tensor.shape.as_slice()) {
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

/// Checked against the number of tensors before anything is allocated per layer.
fn layer_count(keys: &Keys<'_>) -> Result<usize, Refusal> {
    let (layers, tensors) = (keys.size("block_count")?, keys.gguf.tensors().len());
    if layers > tensors {
        return Err(keys.unsupported(
            "block_count",
            layers,
            format_args!("at most the {tensors} tensors of the file"),
        ));
    }
    Ok(layers)
}

/// The metadata below a family's name.
struct Keys<'a> {
    gguf: &'a Gguf,
    family: &'a Family,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.family.name)
    }

    fn size(&self, key: &str) -> Result<usize, Refusal> {
        Ok(required(&self.full(key), self.optional_size(key)?)?)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, Refusal> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, Refusal> {
        match self.gguf.get_usize(&self.full(key))? {
            Some(size) if !(1..=LARGEST_SIZE).contains(&size) => {
                Err(self.unsupported(key, size, format_args!("1 to {LARGEST_SIZE}")))
            }
            size => Ok(size),
        }
    }

    fn positive(&self, key: &str, default: Option<f32>) -> Result<f32, Refusal> {
        let full = self.full(key);
        let value = required(&full, self.gguf.get_f32(&full)?.or(default))?;
        if !(value > 0.0 && value.is_finite()) {
            return Err(self.unsupported(key, value, "a positive number"));
        }
        Ok(value)
    }

    fn refuse_unknown(&self) -> Result<(), Refusal> {
        for (key, fixed) in self.family.fixed {
            if let Some(got) = fixed.contradiction(self.gguf, &self.full(key))? {
                return Err(self.unsupported(key, got, fixed));
            }
        }
        let prefix = self.full("");
        let known = |key: &&str| READ.contains(key) || self.family.fixed.iter().any(|(fixed, _)| fixed == key);
        let mut own = self.gguf.metadata().keys().filter_map(|key| key.strip_prefix(&prefix));
        match own.find(|key| !known(key)) {
            Some(key) => Err(Refusal::unsupported(format_args!(
                "metadata key {} is not known",
                self.full(key)
            ))),
            None => Ok(()),
        }
    }

    fn unsupported(&self, key: &str, got: impl Display, supported: impl Display) -> Refusal {
        Refusal::unsupported(format_args!(
            "{}: {got} is not supported (supported: {supported})",
            self.full(key)
        ))
    }
}

impl Fixed {
    /// The value at `key` if it is another one.
    fn contradiction(&self, gguf: &Gguf, key: &str) -> Result<Option<String>, FormatError> {
        Ok(match *self {
            Self::Text(only) => gguf
                .get_str(key)?
                .filter(|&got| got != only)
                .map(|got| format!("{got:?}")),
            Self::Integer(only) => gguf.get_u64(key)?.filter(|&got| got != only).map(|got| got.to_string()),
            Self::Truth(only) => gguf
                .get_bool(key)?
                .filter(|&got| got != only)
                .map(|got| got.to_string()),
        })
    }
}

impl Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Truth(truth) => write!(f, "{truth}"),
        }
    }
}
