//! What the linear maps of a base are called in the adapters of its family: transformers' module paths.
//! A family with other names is another table.

use crate::{ArchSpec, Projection, Site};

/// Module paths of one way to name layers: `<stack>.<layer>.<projection>`.
pub(super) struct ModuleNames {
    families: &'static [&'static str],
    stack: &'static str,
    projections: [(Projection, &'static str); 7],
}

const TABLES: [ModuleNames; 1] = [ModuleNames {
    families: &["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3"],
    stack: "model.layers",
    projections: [
        (Projection::Query, "self_attn.q_proj"),
        (Projection::Key, "self_attn.k_proj"),
        (Projection::Value, "self_attn.v_proj"),
        (Projection::Output, "self_attn.o_proj"),
        (Projection::Gate, "mlp.gate_proj"),
        (Projection::Up, "mlp.up_proj"),
        (Projection::Down, "mlp.down_proj"),
    ],
}];

/// What peft puts in front of a module's path in a weights file.
const PREFIX: &str = "base_model.model.";

impl ModuleNames {
    /// The names used for a family of architectures, as [`ArchSpec::family`] spells it.
    pub(super) fn of_family(family: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.families.contains(&family))
    }

    /// Every site of the base with its module path, ordered by site.
    pub(super) fn modules(&self, spec: &ArchSpec) -> impl Iterator<Item = (Site, String)> {
        (0..spec.layers.len()).flat_map(move |layer| {
            self.projections.iter().map(move |&(projection, name)| {
                let site = Site { layer, projection };
                (site, format!("{}.{layer}.{name}", self.stack))
            })
        })
    }
}

/// The side of a low-rank pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

impl Side {
    fn suffix(self) -> &'static str {
        match self {
            Self::A => ".lora_A.weight",
            Self::B => ".lora_B.weight",
        }
    }
}

/// The name of a tensor of the pair on `module`.
pub(super) fn tensor_name(module: &str, side: Side) -> String {
    format!("{PREFIX}{module}{}", side.suffix())
}

/// The module and the side that a tensor's name means.
pub(super) fn split_tensor_name(name: &str) -> Option<(&str, Side)> {
    let path = name.strip_prefix(PREFIX)?;
    [Side::A, Side::B]
        .into_iter()
        .find_map(|side| Some((path.strip_suffix(side.suffix())?, side)))
}
