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

    /// Every site of the base, ordered.
    pub(super) fn sites(&self, spec: &ArchSpec) -> impl Iterator<Item = Site> {
        (0..spec.layers.len()).flat_map(|layer| {
            self.projections
                .iter()
                .map(move |&(projection, _)| Site::Layer { layer, projection })
        })
    }

    /// The module path of a site.
    pub(super) fn module(&self, site: Site) -> String {
        let Site::Layer { layer, projection } = site else {
            return String::new();
        };
        let name = self.projections.iter().find(|(known, _)| *known == projection);
        let name = name.map_or("", |(_, name)| name);
        format!("{}.{layer}.{name}", self.stack)
    }

    /// The site that a module path means, whether or not the base has that many layers.
    pub(super) fn site(&self, module: &str) -> Option<Site> {
        let (layer, name) = module.strip_prefix(self.stack)?.strip_prefix('.')?.split_once('.')?;
        let (projection, _) = self.projections.iter().find(|(_, known)| *known == name)?;
        let canonical = layer == "0" || !layer.starts_with(['0', '+']);
        let layer = layer.parse().ok().filter(|_| canonical)?;
        let projection = *projection;
        Some(Site::Layer { layer, projection })
    }

    /// The name of a tensor of the pair on `site`.
    pub(super) fn tensor(&self, site: Site, side: Side) -> String {
        format!("{PREFIX}{}{}", self.module(site), side.suffix())
    }

    /// The site and the side that a tensor's name means.
    pub(super) fn split_tensor(&self, name: &str) -> Option<(Site, Side)> {
        let path = name.strip_prefix(PREFIX)?;
        let mut sides = [Side::A, Side::B].into_iter();
        let (module, side) = sides.find_map(|side| Some((path.strip_suffix(side.suffix())?, side)))?;
        Some((self.site(module)?, side))
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
