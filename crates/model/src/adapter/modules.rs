//! The modules of a base by their paths: what each is, its shape, and which sites its outputs belong to.

use std::collections::HashMap;
use std::ops::Range;

use rootstock_formats::peft::ModuleKind;

use super::names::ModuleNames;
use crate::{ArchSpec, NormKind, NormSite, ProjectionSet, Site};

/// Every module of a base that an adapter can name, in the order of a forward pass.
pub(super) struct Modules {
    list: Vec<Module>,
    by_path: HashMap<String, usize>,
}

/// One module.
pub(super) struct Module {
    pub(super) path: String,
    pub(super) role: ModuleRole,
}

pub(super) enum ModuleRole {
    Map(Map),
    /// A normalisation of so many elements; the flag says whether it has a bias.
    Norm {
        site: NormSite,
        width: usize,
        biased: bool,
    },
    /// Learned positions, which no adapter can change.
    Positions,
}

/// A linear map, possibly of several projections.
pub(super) struct Map {
    pub(super) kind: ModuleKind,
    pub(super) inputs: usize,
    /// Outputs of all parts.
    pub(super) outputs: usize,
    pub(super) parts: Vec<Part>,
    /// Stored `[inputs, outputs]`.
    pub(super) conv1d: bool,
    pub(super) biased: bool,
}

/// The outputs of a module that belong to one site.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) site: Site,
    pub(super) outputs: Range<usize>,
}

impl Modules {
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
            by_path: by_path.collect(),
            list,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Module> {
        self.list.iter()
    }

    /// The linear maps and embeddings, with their paths.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.list.iter().filter_map(|module| match &module.role {
            ModuleRole::Map(map) => Some((module.path.as_str(), map)),
            _ => None,
        })
    }

    /// Place of a module in [`Self::iter`].
    pub(super) fn index(&self, path: &str) -> Option<usize> {
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
