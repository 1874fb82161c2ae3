//! The modules of a base by their paths: what each is, its shape, and which sites its outputs belong to.

use std::collections::HashMap;
use std::ops::Range;

use rootstock_formats::peft::ModuleKind;

use super::names::ModuleNames;
use crate::{ArchSpec, NormKind, NormSite, ProjectionSet, Site};

/// Every module of a base that an adapter can name, in the order of a forward pass.
#[derive(Debug)]
pub struct Modules {
    norm_offset: f32,
    list: Vec<Module>,
    by_path: HashMap<String, usize>,
}

/// One module.
#[derive(Debug)]
pub struct Module {
    /// As transformers names it.
    pub path: String,
    /// What it is.
    pub role: ModuleRole,
}

/// What a module is.
#[derive(Debug)]
pub enum ModuleRole {
    /// A linear map or an embedding.
    Map(Map),
    /// A normalisation.
    Norm {
        /// Which one.
        site: NormSite,
        /// Elements.
        width: usize,
        /// Whether it has a bias.
        biased: bool,
    },
    /// Learned positions, which no adapter can change.
    Positions,
}

/// A linear map, possibly of several projections.
#[derive(Debug)]
pub struct Map {
    /// What it is to peft.
    pub kind: ModuleKind,
    /// Width of its rows.
    pub inputs: usize,
    /// Outputs of all parts.
    pub outputs: usize,
    /// Its projections, their outputs one after another.
    pub parts: Vec<Part>,
    /// Stored `[inputs, outputs]`.
    pub conv1d: bool,
    /// It adds a bias.
    pub biased: bool,
}

/// The outputs of a module that belong to one site.
#[derive(Debug, Clone)]
pub struct Part {
    /// The site.
    pub site: Site,
    /// Its rows among the module's outputs.
    pub outputs: Range<usize>,
}

impl Modules {
    /// The modules of an architecture as transformers names them; `None` for a family without known names.
    pub fn of(spec: &ArchSpec) -> Option<Self> {
        Some(Self::new(ModuleNames::of_family(&spec.family, |_| false)?, spec))
    }

    /// What files subtract from every factor of a normalisation.
    pub fn norm_offset(&self) -> f32 {
        self.norm_offset
    }

    pub(super) fn new(names: &ModuleNames, spec: &ArchSpec) -> Self {
        let mut list = vec![Module {
            path: names.embedding.to_owned(),
            role: whole(spec, Site::Embedding, ModuleKind::Embedding),
        }];
        list.extend(names.positions.map(|path| Module {
            path: path.to_owned(),
            role: ModuleRole::Positions,
        }));
        for layer in 0..spec.layers.len() {
            list.extend(maps_of_layer(names, spec, layer));
            let norms = names
                .norms
                .iter()
                .map(|&(name, site)| (in_layer(names, layer, name), site(layer)));
            list.extend(norms.filter_map(|(path, site)| norm(spec, path, site)));
        }
        list.extend(norm(spec, names.final_norm.to_owned(), NormSite::Final));
        list.push(Module {
            path: names.output.to_owned(),
            role: whole(spec, Site::Output, ModuleKind::Output),
        });
        let by_path = list
            .iter()
            .enumerate()
            .map(|(index, module)| (module.path.clone(), index));
        Self {
            norm_offset: names.norm_offset,
            by_path: by_path.collect(),
            list,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.list.iter()
    }

    /// The linear maps and embeddings, with their paths.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.list.iter().filter_map(|module| match &module.role {
            ModuleRole::Map(map) => Some((module.path.as_str(), map)),
            _ => None,
        })
    }

    /// Place of a module in [`Self::iter`].
    pub fn index(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }
}

fn in_layer(names: &ModuleNames, layer: usize, name: &str) -> String {
    format!("{}.{layer}.{name}", names.stack)
}

fn maps_of_layer(names: &ModuleNames, spec: &ArchSpec, layer: usize) -> Vec<Module> {
    let shape = &spec.layers[layer];
    let existing: ProjectionSet = shape.projections().collect();
    let mut modules = Vec::new();
    for &(name, projections) in names.maps {
        let (mut inputs, mut outputs, mut parts) = (0, 0, Vec::new());
        let mut biased = !projections.is_empty();
        for &projection in projections.iter().filter(|&&projection| existing.contains(projection)) {
            let (ins, outs) = shape.shape(projection, spec.hidden_size);
            inputs = ins;
            parts.push(Part {
                site: Site::Layer { layer, projection },
                outputs: outputs..outputs + outs,
            });
            outputs += outs;
            biased &= shape.biases.contains(projection);
        }
        if parts.len() == projections.len() {
            let (path, conv1d) = (in_layer(names, layer, name), names.conv1d);
            let kind = ModuleKind::Linear;
            let role = ModuleRole::Map(Map {
                kind,
                inputs,
                outputs,
                parts,
                conv1d,
                biased,
            });
            modules.push(Module { path, role });
        }
    }
    modules
}

fn whole(spec: &ArchSpec, site: Site, kind: ModuleKind) -> ModuleRole {
    let (inputs, outputs) = spec.shape(site).unwrap_or_default();
    ModuleRole::Map(Map {
        kind,
        inputs,
        outputs,
        parts: vec![Part {
            site,
            outputs: 0..outputs,
        }],
        conv1d: false,
        biased: false,
    })
}

fn norm(spec: &ArchSpec, path: String, site: NormSite) -> Option<Module> {
    let width = spec.norm_width(site)?;
    let biased = spec.norm.kind == NormKind::Layer;
    let role = ModuleRole::Norm { site, width, biased };
    Some(Module { path, role })
}
