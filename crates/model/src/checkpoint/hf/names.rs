//! Where a Hugging Face checkpoint keeps the tensor of a role.

use super::super::Refusal;
use super::super::roles::{NameTable, Part, Place, Role, TensorPlace};
use super::super::shards::Shards;
use super::family::{Family, TensorNames};
use crate::{ArchSpec, NormSite, Projection};

/// The names of one checkpoint.
pub(super) struct Names {
    family: &'static Family,
    spec: ArchSpec,
    prefix: &'static str,
    /// The output projection is in the file although it is the embedding.
    repeated_output: bool,
}

impl Names {
    /// The names as the files at hand spell them.
    ///
    /// # Errors
    /// A tied output projection that is not the embedding.
    pub(super) fn new(family: &'static Family, spec: &ArchSpec, shards: &Shards) -> Result<Self, Refusal> {
        let tensors = family.tensors;
        let has = |prefix: &&&str| shards.tensor(&format!("{prefix}{}", tensors.embedding)).is_some();
        let prefix = tensors.prefixes.iter().find(has).or(tensors.prefixes.first());
        let mut names = Self {
            family,
            spec: spec.clone(),
            prefix: prefix.copied().unwrap_or_default(),
            repeated_output: false,
        };
        if let (true, Some(output)) = (spec.tied_output, shards.tensor(tensors.output)) {
            let embedding = names.in_model(tensors.embedding);
            let content = |(info, bytes): (&rootstock_formats::TensorInfo, _)| (info.dtype, info.shape.clone(), bytes);
            if shards.tensor(&embedding).map(content) != Some(content(output)) {
                return Err(Refusal::unsupported(format_args!(
                    "tensor {}: differs from {embedding}, but config.json says tie_word_embeddings; set it to false if the \
                     model has an output projection of its own",
                    tensors.output
                )));
            }
            names.repeated_output = true;
        }
        Ok(names)
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

    /// Place of a map's weight or bias; the maps of a fused module lie one after another along its outputs.
    fn of_module(&self, layer: usize, projection: Projection, kind: &str) -> TensorPlace {
        let modules = self.tensors().modules;
        let Some((module, held)) = modules.iter().find(|(_, held)| held.contains(&projection)) else {
            return TensorPlace::whole(format!("{projection:?} of layer {layer}"));
        };
        TensorPlace {
            part: self.part(layer, projection, held),
            transposed: self.tensors().transposed,
            ..TensorPlace::whole(self.in_layer(layer, &format!("{module}.{kind}")))
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

impl NameTable for Names {
    fn place(&self, role: Role) -> Place {
        let tensors = self.tensors();
        Place::Tensor(match role {
            Role::Embedding => TensorPlace::whole(self.in_model(tensors.embedding)),
            Role::Positions => TensorPlace::whole(self.in_model(tensors.positions)),
            Role::Output => TensorPlace::whole(tensors.output),
            Role::Weight { layer, projection } => self.of_module(layer, projection, "weight"),
            Role::Bias { layer, projection } => self.of_module(layer, projection, "bias"),
            Role::NormBias(site) => TensorPlace::whole(self.norm(site, "bias")),
            Role::Norm(site) => TensorPlace {
                offset: self.family.norm_offset,
                ..TensorPlace::whole(self.norm(site, "weight"))
            },
        })
    }

    fn is_implied(&self, name: &str) -> bool {
        let tensors = self.tensors();
        if self.repeated_output && name == tensors.output {
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
