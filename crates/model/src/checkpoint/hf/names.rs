//! Where a Hugging Face checkpoint keeps the tensor of a role.

use std::collections::BTreeSet;

use rootstock_formats::TensorInfo;

use super::super::Refusal;
use super::super::roles::{NameTable, Part, Place, Role, TensorPlace};
use super::super::shards::Shards;
use super::family::Family;
use super::int4::{Int4Place, Scheme};
use super::tensor_names::TensorNames;
use crate::{ArchSpec, NormSite, Projection};

/// The names of one checkpoint.
pub(super) struct Names {
    family: &'static Family,
    spec: ArchSpec,
    prefix: &'static str,
    /// How modules are quantized, and those that are.
    quantized: Option<(Scheme, BTreeSet<String>)>,
    /// Tensors that are known to change nothing: the embedding again, biases of zero.
    void: BTreeSet<String>,
}

impl Names {
    /// The names as the files at hand spell them.
    ///
    /// # Errors
    /// A tied output projection that is not the embedding.
    pub(super) fn new(
        family: &'static Family,
        spec: &ArchSpec,
        scheme: Option<Scheme>,
        shards: &Shards,
    ) -> Result<Self, Refusal> {
        let tensors = family.tensors;
        let has = |prefix: &&&str| shards.tensor(&format!("{prefix}{}", tensors.embedding)).is_some();
        let prefix = tensors.prefixes.iter().find(has).or(tensors.prefixes.first());
        let mut names = Self {
            family,
            spec: spec.clone(),
            prefix: prefix.copied().unwrap_or_default(),
            quantized: scheme.map(|scheme| (scheme, quantized_modules(&scheme, shards))),
            void: BTreeSet::new(),
        };
        names.void = names.zero_biases(shards);
        names.void.extend(names.repeated_output(shards)?);
        Ok(names)
    }

    /// The output projection, if it is in the file although the embedding serves for it.
    fn repeated_output(&self, shards: &Shards) -> Result<Option<String>, Refusal> {
        let output = self.tensors().output;
        let (true, Some((info, bytes))) = (self.spec.tied_output, shards.tensor(output)) else {
            return Ok(None);
        };
        let embedding = self.in_model(self.tensors().embedding);
        let same = |(other, content): (&TensorInfo, &[u8])| {
            (other.dtype, &other.shape, content) == (info.dtype, &info.shape, bytes)
        };
        if shards.tensor(&embedding).is_some_and(same) {
            return Ok(Some(output.to_owned()));
        }
        Err(Refusal::unsupported(format_args!(
            "tensor {output}: differs from {embedding}, but config.json says tie_word_embeddings; set it to false if the model \
             has an output projection of its own"
        )))
    }

    /// Biases that some tools write with every quantized module, and that add nothing.
    fn zero_biases(&self, shards: &Shards) -> BTreeSet<String> {
        let modules = self.quantized.iter().flat_map(|(_, modules)| modules);
        let biases = modules.map(|module| format!("{module}.bias"));
        let zero = |name: &String| {
            let content = shards.tensor(name);
            content.is_some_and(|(info, bytes)| info.dtype.is_float() && bytes.iter().all(|byte| *byte == 0))
        };
        biases.filter(zero).collect()
    }

    fn tensors(&self) -> &'static TensorNames {
        self.family.tensors
    }

    fn in_model(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn in_layer(&self, layer: usize, name: &str) -> String {
        self.in_model(&self.tensors().layer.replace("{}", &layer.to_string())) + name
    }

    /// Module of a map, and the rows that are its own; the maps of a fused module lie one after another.
    fn module(&self, layer: usize, projection: Projection) -> (String, Option<Part>) {
        let modules = self.tensors().modules;
        match modules.iter().find(|(_, held)| held.contains(&projection)) {
            Some((module, held)) => (self.in_layer(layer, module), self.part(layer, projection, held)),
            None => (format!("{projection:?} of layer {layer}"), None),
        }
    }

    /// The weight of a module, quantized or not.
    fn weight(&self, module: String, part: Option<Part>) -> Place {
        match &self.quantized {
            Some((scheme, modules)) if modules.contains(&module) => Place::Int4(Int4Place {
                module,
                scheme: *scheme,
                part,
            }),
            _ => Place::Tensor(TensorPlace {
                part,
                transposed: self.tensors().transposed,
                ..TensorPlace::whole(module + ".weight")
            }),
        }
    }

    fn bias(&self, layer: usize, projection: Projection) -> TensorPlace {
        let (module, part) = self.module(layer, projection);
        TensorPlace {
            part,
            ..TensorPlace::whole(module + ".bias")
        }
    }

    fn part(&self, layer: usize, projection: Projection, held: &[Projection]) -> Option<Part> {
        let outputs = |projection: Projection| self.spec.layers[layer].shape(projection, self.spec.hidden_size).1;
        if held.len() == 1 {
            return None;
        }
        let start = held
            .iter()
            .take_while(|other| **other != projection)
            .map(|other| outputs(*other))
            .sum();
        Some(Part {
            rows: start..start + outputs(projection),
            of: held.iter().map(|other| outputs(*other)).sum(),
        })
    }

    /// The output projection, which is never transposed.
    fn output(&self) -> Place {
        let name = self.tensors().output;
        let module = name.trim_end_matches(".weight");
        match &self.quantized {
            Some((_, modules)) if modules.contains(module) => self.weight(module.to_owned(), None),
            _ => Place::Tensor(TensorPlace::whole(name)),
        }
    }

    fn norm(&self, site: NormSite, kind: &str) -> String {
        let name = format!("{}.{kind}", (self.tensors().norm)(site));
        match site {
            NormSite::Final => self.in_model(&name),
            NormSite::Attention(layer)
            | NormSite::Query(layer)
            | NormSite::Key(layer)
            | NormSite::PostAttention(layer)
            | NormSite::FeedForward(layer)
            | NormSite::PostFeedForward(layer) => self.in_layer(layer, &name),
        }
    }
}

/// Every module of the files that has codes.
fn quantized_modules(scheme: &Scheme, shards: &Shards) -> BTreeSet<String> {
    let codes = format!(".{}", scheme.layout.codes());
    shards
        .names()
        .filter_map(|name| name.strip_suffix(&codes))
        .map(str::to_owned)
        .collect()
}

impl NameTable for Names {
    fn place(&self, role: Role) -> Place {
        let tensors = self.tensors();
        let tensor = match role {
            Role::Weight { layer, projection } => {
                let (module, part) = self.module(layer, projection);
                return self.weight(module, part);
            }
            Role::Output => return self.output(),
            Role::Embedding => TensorPlace::whole(self.in_model(tensors.embedding)),
            Role::Positions => TensorPlace::whole(self.in_model(tensors.positions)),
            Role::Bias { layer, projection } => self.bias(layer, projection),
            Role::NormBias(site) => TensorPlace::whole(self.norm(site, "bias")),
            Role::Norm(site) => TensorPlace {
                offset: self.family.norm_offset,
                ..TensorPlace::whole(self.norm(site, "weight"))
            },
        };
        Place::Tensor(tensor)
    }

    fn is_implied(&self, name: &str) -> bool {
        let tensors = self.tensors();
        if self.void.contains(name) {
            return true;
        }
        let Some(name) = name.strip_prefix(self.prefix) else {
            return false;
        };
        let (before, after) = tensors.layer.split_once("{}").unwrap_or((tensors.layer, ""));
        let in_layer = || {
            let (layer, name) = name.strip_prefix(before)?.split_once(after)?;
            Some(layer.parse::<usize>().ok()? < self.spec.layers.len() && tensors.implied_in_layer.contains(&name))
        };
        tensors.implied.contains(&name) || in_layer().unwrap_or(false)
    }
}
