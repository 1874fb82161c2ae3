//! The tensors of a checkpoint by role: each one that the architecture needs, with its shape, and no other.

use std::collections::BTreeSet;

use rootstock_formats::gguf::Gguf;
use rootstock_formats::{DType, TensorInfo};

use super::family::Family;
use super::{NormSite, Refusal};
use crate::{ArchSpec, Projection};

/// Where every tensor of a model lies in its file, and the normalisation weights themselves.
pub(super) struct Tensors {
    pub(super) embedding: TensorInfo,
    /// `None` where the embedding is used.
    pub(super) output: Option<TensorInfo>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
}

struct Layer {
    attention_norm: Vec<f32>,
    feed_forward_norm: Vec<f32>,
    /// In the order of [`Projection::ALL`].
    projections: Vec<TensorInfo>,
}

impl Tensors {
    /// Finds every tensor that `spec` needs in the file `bytes`.
    pub(super) fn find(bytes: &[u8], gguf: &Gguf, family: &Family, spec: &ArchSpec) -> Result<Self, Refusal> {
        let mut search = Search {
            bytes,
            gguf,
            found: BTreeSet::new(),
        };
        let (names, hidden) = (family.tensors, spec.hidden_size);
        let table = [spec.vocab_size, hidden];
        let embedding = search.matrix(names.embedding.to_owned(), table)?;
        let output = if spec.tied_output {
            None
        } else {
            Some(search.matrix(names.output.to_owned(), table)?)
        };
        let final_norm = search.vector(names.final_norm.to_owned(), hidden)?;
        let layers = (0..spec.layers.len())
            .map(|layer| search.layer(layer, family, spec))
            .collect::<Result<_, _>>()?;
        search.refuse_rest()?;
        Ok(Self {
            embedding,
            output,
            layers,
            final_norm,
        })
    }

    /// # Panics
    /// If the layer does not exist.
    pub(super) fn projection(&self, layer: usize, projection: Projection) -> &TensorInfo {
        &self.layers[layer].projections[projection as usize]
    }

    /// # Panics
    /// If the layer does not exist.
    pub(super) fn norm(&self, site: NormSite) -> &[f32] {
        match site {
            NormSite::Attention(layer) => &self.layers[layer].attention_norm,
            NormSite::FeedForward(layer) => &self.layers[layer].feed_forward_norm,
            NormSite::Final => &self.final_norm,
        }
    }
}

/// A walk over the tensors of a file that remembers which ones have a role.
struct Search<'a> {
    bytes: &'a [u8],
    gguf: &'a Gguf,
    found: BTreeSet<String>,
}

impl Search<'_> {
    fn layer(&mut self, layer: usize, family: &Family, spec: &ArchSpec) -> Result<Layer, Refusal> {
        let name = |pattern: &str| pattern.replace("{}", &layer.to_string());
        let mut projections = Vec::with_capacity(Projection::ALL.len());
        for projection in Projection::ALL {
            let (inputs, outputs) = spec.layers[layer].shape(projection, spec.hidden_size);
            projections.push(self.matrix(name((family.tensors.projection)(projection)), [outputs, inputs])?);
        }
        Ok(Layer {
            attention_norm: self.vector(name(family.tensors.attention_norm), spec.hidden_size)?,
            feed_forward_norm: self.vector(name(family.tensors.feed_forward_norm), spec.hidden_size)?,
            projections,
        })
    }

    fn matrix(&mut self, name: String, shape: [usize; 2]) -> Result<TensorInfo, Refusal> {
        self.tensor(name, &shape).cloned()
    }

    fn vector(&mut self, name: String, length: usize) -> Result<Vec<f32>, Refusal> {
        let bytes = self.bytes;
        let tensor = self.tensor(name.clone(), &[length])?;
        match (tensor.dtype, tensor.bytes(bytes)) {
            (DType::F32, Some(bytes)) => {
                let (values, _) = bytes.as_chunks();
                Ok(values.iter().map(|&value| f32::from_le_bytes(value)).collect())
            }
            (dtype, _) => Err(Refusal::unsupported(format_args!(
                "tensor {name}: {dtype} is not supported for a normalisation (supported: F32)"
            ))),
        }
    }

    fn tensor(&mut self, name: String, shape: &[usize]) -> Result<&TensorInfo, Refusal> {
        let Some(tensor) = self.gguf.tensor(&name) else {
            return Err(Refusal::unsupported(format_args!("tensor {name} {shape:?} is missing")));
        };
        if tensor.shape != shape {
            let got = &tensor.shape;
            return Err(Refusal::unsupported(format_args!(
                "tensor {name}: expected shape {shape:?}, got {got:?}"
            )));
        }
        self.found.insert(name);
        Ok(tensor)
    }

    /// A tensor without a role would silently have no effect.
    fn refuse_rest(&self) -> Result<(), Refusal> {
        match self.gguf.tensors().keys().find(|name| !self.found.contains(*name)) {
            Some(name) => Err(Refusal::unsupported(format_args!(
                "tensor {name:?}: the architecture has no place for it"
            ))),
            None => Ok(()),
        }
    }
}
