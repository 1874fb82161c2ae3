//! Where a GGUF file keeps the tensor of a role. ggml's names are the same for every family; what differs is which maps
//! share a tensor, which the file tells for queries, keys and values, and the order of the rows.

use std::collections::BTreeSet;

use super::super::roles::{NameTable, Part, Place, Role, TensorPlace};
use super::super::shards::Shards;
use super::family::{Family, FeedForwardLayout, Positions};
use super::rotary;
use crate::{ArchSpec, NormSite, Projection, RowOrder};

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT: &str = "output.weight";
const POSITIONS: &str = "position_embd.weight";

/// Name of the tensor of a map that has one for itself; `suffix` is `weight` or `bias`.
pub(super) fn projection(layer: usize, projection: Projection, suffix: &str) -> String {
    let name = match projection {
        Projection::Query => "attn_q",
        Projection::Key => "attn_k",
        Projection::Value => "attn_v",
        Projection::Output => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    };
    format!("blk.{layer}.{name}.{suffix}")
}

/// A tensor that several maps share, one after the other along the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fused {
    name: &'static str,
    members: &'static [Projection],
    /// The maps have no other place; else this is where they lie if the file has the tensor.
    always: bool,
}

const QKV: Fused = Fused {
    name: "attn_qkv",
    members: &[Projection::Query, Projection::Key, Projection::Value],
    always: false,
};
const GATE_UP: Fused = Fused {
    name: "ffn_up",
    members: &[Projection::Gate, Projection::Up],
    always: true,
};

/// The tensor that a map may share with others.
pub(super) fn fused(family: &Family, projection: Projection) -> Option<Fused> {
    let gate_up = (family.feed_forward == FeedForwardLayout::GateInUp).then_some(GATE_UP);
    [Some(QKV), gate_up]
        .into_iter()
        .flatten()
        .find(|fused| fused.members.contains(&projection))
}

impl Fused {
    pub(super) fn name(self, layer: usize, suffix: &str) -> String {
        format!("blk.{layer}.{}.{suffix}", self.name)
    }

    /// The rows of a map within the tensor.
    fn part(self, spec: &ArchSpec, layer: usize, projection: Projection) -> Part {
        let rows = |projection| spec.layers[layer].shape(projection, spec.hidden_size).1;
        let before = self.members.iter().take_while(|member| **member != projection);
        let first: usize = before.map(|&member| rows(member)).sum();
        Part {
            rows: first..first + rows(projection),
            of: self.members.iter().map(|&member| rows(member)).sum(),
        }
    }
}

/// The names of one model.
pub(super) struct Names {
    family: &'static Family,
    spec: ArchSpec,
    /// Names of the shared tensors that the file has.
    fused: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(family: &'static Family, spec: &ArchSpec, shards: &Shards) -> Self {
        let layers = 0..spec.layers.len();
        let shared = layers.flat_map(|layer| ["weight", "bias"].map(|suffix| QKV.name(layer, suffix)));
        Self {
            family,
            spec: spec.clone(),
            fused: shared.filter(|name| shards.tensor(name).is_some()).collect(),
        }
    }

    /// The names of a model that is written: queries, keys and values share a tensor where all files of the family have it so.
    pub(super) fn to_write(family: &'static Family, spec: &ArchSpec) -> Self {
        let layers = 0..if family.shares_qkv { spec.layers.len() } else { 0 };
        Self {
            family,
            spec: spec.clone(),
            fused: layers
                .flat_map(|layer| ["weight", "bias"].map(|suffix| QKV.name(layer, suffix)))
                .collect(),
        }
    }

    fn of_projection(&self, layer: usize, map: Projection, suffix: &str) -> TensorPlace {
        let shared = fused(self.family, map).map(|fused| (fused, fused.name(layer, suffix)));
        let place = match shared {
            Some((fused, name)) if fused.always || self.fused.contains(&name) => TensorPlace {
                part: Some(fused.part(&self.spec, layer, map)),
                ..TensorPlace::whole(name)
            },
            _ => TensorPlace::whole(projection(layer, map, suffix)),
        };
        TensorPlace {
            order: self.order(layer, map),
            ..place
        }
    }

    fn order(&self, layer: usize, map: Projection) -> RowOrder {
        let rotates = matches!(map, Projection::Query | Projection::Key);
        match self.family.positions {
            // The converter reorders the rows of every layer, whether positions enter it or not.
            Positions::Interleaved if rotates => RowOrder::InterleavedHalves {
                head_dim: self.spec.layers[layer].attention.head_dim,
            },
            Positions::Interleaved | Positions::Halves | Positions::Learned => RowOrder::Natural,
        }
    }
}

impl NameTable for Names {
    fn place(&self, role: Role) -> Place {
        Place::Tensor(match role {
            Role::Embedding => TensorPlace::whole(EMBEDDING),
            Role::Positions => TensorPlace::whole(POSITIONS),
            Role::Output => TensorPlace::whole(OUTPUT),
            Role::Weight { layer, projection } => self.of_projection(layer, projection, "weight"),
            Role::Bias { layer, projection } => self.of_projection(layer, projection, "bias"),
            Role::Norm(site) => TensorPlace::whole(norm(site, "weight")),
            Role::NormBias(site) => TensorPlace::whole(norm(site, "bias")),
        })
    }

    fn is_implied(&self, name: &str) -> bool {
        self.family.positions != Positions::Learned && rotary::TENSORS.contains(&name)
    }
}

fn norm(site: NormSite, suffix: &str) -> String {
    let (layer, name) = match site {
        NormSite::Attention(layer) => (layer, "attn_norm"),
        NormSite::Query(layer) => (layer, "attn_q_norm"),
        NormSite::Key(layer) => (layer, "attn_k_norm"),
        NormSite::PostAttention(layer) => (layer, "post_attention_norm"),
        NormSite::FeedForward(layer) => (layer, "ffn_norm"),
        NormSite::PostFeedForward(layer) => (layer, "post_ffw_norm"),
        NormSite::Final => return format!("output_norm.{suffix}"),
    };
    format!("blk.{layer}.{name}.{suffix}")
}
