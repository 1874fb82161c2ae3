//! The hash of what an adapter does: what caches are keyed by.

use super::{AdapterTensor, BiasKind, Bottleneck, Effect};
use crate::ContentHash;

/// Set apart from every other use of the hash function; a new layout of the hashed bytes takes a new number.
const HASH_CONTEXT: &str = "rootstock adapter content 2";

/// Hash of what the effects do, equal for equal content under any name.
pub(super) fn content_hash(effects: &[Effect]) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    for effect in effects {
        match effect {
            Effect::LowRank(pair) => {
                label(&mut hasher, "pair", &pair.site.to_string());
                hasher.update(&pair.scale.to_bits().to_le_bytes());
                hash_tensor(&mut hasher, &pair.a);
                hash_tensor(&mut hasher, &pair.b);
                pair.magnitude.iter().for_each(|magnitude| {
                    label(&mut hasher, "magnitude", "");
                    hash_tensor(&mut hasher, magnitude);
                });
            }
            Effect::Bias(bias) => {
                label(&mut hasher, "bias", &bias.site.to_string());
                match bias.kind {
                    BiasKind::Replaces => hasher.update(b"replaces"),
                    BiasKind::Adds(scale) => hasher.update(&scale.to_bits().to_le_bytes()),
                };
                hash_tensor(&mut hasher, &bias.values);
            }
            Effect::Matrix(matrix) => {
                label(&mut hasher, "matrix", &matrix.site.to_string());
                hash_tensor(&mut hasher, &matrix.values);
            }
            Effect::Norm(norm) => {
                label(&mut hasher, "norm", &format!("{:?}", norm.site));
                hash_vector(&mut hasher, norm.weight.as_deref());
                hash_vector(&mut hasher, norm.bias.as_deref());
            }
            Effect::Bottleneck(bottleneck) => hash_bottleneck(&mut hasher, bottleneck),
        }
    }
    ContentHash(hasher.finalize().into())
}

/// Length-prefixed, so that no two sequences of labels and values look the same.
fn label(hasher: &mut blake3::Hasher, kind: &str, site: &str) {
    for text in [kind, site] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
}

fn hash_bottleneck(hasher: &mut blake3::Hasher, bottleneck: &Bottleneck) {
    label(hasher, "bottleneck", &bottleneck.site.to_string());
    label(
        hasher,
        &format!("{:?}", bottleneck.input),
        &format!("{:?}", bottleneck.activation),
    );
    hasher.update(&bottleneck.scale.to_bits().to_le_bytes());
    let Bottleneck {
        down,
        down_bias,
        up,
        up_bias,
        ..
    } = bottleneck;
    [down, down_bias, up, up_bias]
        .into_iter()
        .for_each(|tensor| hash_tensor(hasher, tensor));
}

fn hash_tensor(hasher: &mut blake3::Hasher, tensor: &AdapterTensor) {
    label(hasher, "tensor", &tensor.dtype.to_string());
    hasher.update(&(tensor.rows as u64).to_le_bytes());
    hasher.update(&(tensor.cols as u64).to_le_bytes());
    hasher.update(&tensor.bytes);
}

fn hash_vector(hasher: &mut blake3::Hasher, vector: Option<&[f32]>) {
    label(hasher, "vector", if vector.is_some() { "some" } else { "none" });
    let values = vector.unwrap_or_default();
    hasher.update(&(values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| {
        hasher.update(&value.to_bits().to_le_bytes());
    });
}
