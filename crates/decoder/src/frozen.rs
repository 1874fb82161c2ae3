//! A checkpoint in memory, as training reads it: matrices as they are stored, in the layout of the kernels.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use rootstock_kernels::{AttentionHeads, BlockFormat, NormFormula, NormWeights, PackedMatrix, RotaryTable};
use rootstock_model::checkpoint::Role as WeightRole;
use rootstock_model::packing::{Packing, Role, pack};
use rootstock_model::{ArchSpec, Checkpoint, Norm, NormKind, NormSite, Position, Site, WeightSource};

use crate::{DecoderError, Trained};

/// Weights that do not change.
pub struct FrozenModel {
    spec: ArchSpec,
    /// `None` once it is trained, and where only a layer was loaded.
    embedding: Option<PackedMatrix>,
    positions: Option<PackedMatrix>,
    output: Option<PackedMatrix>,
    maps: BTreeMap<Site, PackedMatrix>,
    biases: BTreeMap<Site, Vec<f32>>,
    norms: BTreeMap<NormSite, Norm>,
    /// By layer; layers with the same positions share a table.
    rotaries: Vec<Option<usize>>,
    tables: Vec<RotaryTable>,
}

impl FrozenModel {
    /// Reads every tensor of a checkpoint; sequences are at most `max_length` tokens.
    ///
    /// # Errors
    /// Tensors or shapes that the kernels do not take.
    pub fn load(checkpoint: &Checkpoint, max_length: usize, packing: Packing) -> Result<Self, DecoderError> {
        let spec = checkpoint.spec().clone();
        check(&spec, max_length)?;
        let (mut maps, mut biases, mut norms) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for site in spec.sites() {
            let Site::Layer { layer, projection } = site else {
                continue;
            };
            maps.insert(
                site,
                pack(checkpoint.projection(layer, projection), Role::Map(site), packing)?,
            );
            if let Some(bias) = checkpoint.bias(layer, projection) {
                biases.insert(site, bias.to_vec());
            }
        }
        let of_layers = spec
            .layers
            .iter()
            .enumerate()
            .flat_map(|(index, layer)| layer.norms(index));
        for site in of_layers.chain([NormSite::Final]) {
            norms.insert(site, checkpoint.norm(site));
        }
        let vocabulary = |view| pack(view, Role::Vocabulary, packing);
        let positions = checkpoint.position_embedding()?;
        let positions = positions
            .map(|view| pack(Ok(view), Role::Positions, packing))
            .transpose()?;
        let (rotaries, tables) = rotaries(&spec, max_length);
        Ok(Self {
            embedding: Some(vocabulary(checkpoint.embedding())?),
            positions,
            output: (!spec.tied_output)
                .then(|| vocabulary(checkpoint.output()))
                .transpose()?,
            maps,
            biases,
            norms,
            rotaries,
            tables,
            spec,
        })
    }

    /// One layer alone and the last normalisation, from weights of any kind, for who takes a text through a model layer by layer.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_layer(
        spec: &ArchSpec,
        weights: &dyn WeightSource,
        index: usize,
        max_length: usize,
    ) -> Result<Self, DecoderError> {
        check(spec, max_length)?;
        let (rotaries, tables) = rotaries(spec, max_length);
        let mut model = Self {
            spec: spec.clone(),
            embedding: None,
            positions: None,
            output: None,
            maps: BTreeMap::new(),
            biases: BTreeMap::new(),
            norms: BTreeMap::new(),
            rotaries,
            tables,
        };
        let layer = &spec.layers[index];
        for projection in layer.projections() {
            let (inputs, outputs) = layer.shape(projection, spec.hidden_size);
            let site = Site::Layer {
                layer: index,
                projection,
            };
            let values = read(
                weights,
                WeightRole::Weight {
                    layer: index,
                    projection,
                },
            )?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let row = |row: usize| &bytes[row * inputs * size_of::<f32>()..][..inputs * size_of::<f32>()];
            let matrix = PackedMatrix::pack(BlockFormat::F32, outputs, inputs, row);
            model.maps.insert(
                site,
                matrix.map_err(|error| DecoderError::Unsupported(format!("{site}: {error}")))?,
            );
            if layer.biases.contains(projection) {
                let bias = read(
                    weights,
                    WeightRole::Bias {
                        layer: index,
                        projection,
                    },
                )?;
                model.biases.insert(site, bias);
            }
        }
        for site in layer.norms(index).chain([NormSite::Final]) {
            let biased = spec.norm.kind == NormKind::Layer;
            let norm = Norm {
                weight: read(weights, WeightRole::Norm(site))?,
                bias: biased.then(|| read(weights, WeightRole::NormBias(site))).transpose()?,
            };
            model.norms.insert(site, norm);
        }
        Ok(model)
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// The matrix of a map, `[outputs, inputs]`; of the embedding `[vocabulary, hidden]`.
    ///
    /// # Panics
    /// On a site that the model does not have, or whose weight was let go of.
    pub fn matrix(&self, site: Site) -> &PackedMatrix {
        self.kept_matrix(site)
            .unwrap_or_else(|| panic!("no frozen weight: {site}"))
    }

    /// The same, `None` of one that was let go of.
    pub fn kept_matrix(&self, site: Site) -> Option<&PackedMatrix> {
        match site {
            Site::Embedding => self.embedding.as_ref(),
            Site::Output => self.output.as_ref().or(self.embedding.as_ref()),
            Site::Layer { .. } => self.maps.get(&site),
        }
    }

    /// Puts another matrix in the place of a map's, which it gives.
    ///
    /// # Panics
    /// On a matrix of another shape, and on the embedding and the output.
    pub fn replace(&mut self, site: Site, matrix: PackedMatrix) -> Option<PackedMatrix> {
        let shape = matches!(site, Site::Layer { .. })
            .then(|| self.spec.shape(site))
            .flatten();
        assert_eq!(shape, Some((matrix.inputs(), matrix.outputs())), "shape of {site}");
        self.maps.insert(site, matrix)
    }

    /// Whether every matrix is there.
    pub fn is_whole(&self) -> bool {
        let mut maps = self.spec.sites().filter(|site| matches!(site, Site::Layer { .. }));
        self.embedding.is_some() && maps.all(|site| self.maps.contains_key(&site))
    }

    /// Lets go of the matrices in whose place others are trained: nothing reads them again.
    pub fn release(&mut self, trained: &Trained) {
        let is_trained = |site| trained.weight(site).is_some();
        self.maps.retain(|&site, _| !is_trained(site));
        if is_trained(Site::Output) {
            self.output = None;
        }
        // A tied output reads the embedding.
        if is_trained(Site::Embedding) && (!self.spec.tied_output || is_trained(Site::Output)) {
            self.embedding = None;
        }
        if trained.positions.is_some() {
            self.positions = None;
        }
    }

    /// Learned positions, `[positions, hidden]`.
    pub fn positions(&self) -> Option<&PackedMatrix> {
        self.positions.as_ref()
    }

    /// The bias of a map, if it has one.
    pub fn bias(&self, site: Site) -> Option<&[f32]> {
        self.biases.get(&site).map(Vec::as_slice)
    }

    /// The weights of a normalisation.
    ///
    /// # Panics
    /// On a site that the model does not have.
    pub fn norm(&self, site: NormSite) -> &Norm {
        &self.norms[&site]
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        let others = [&self.embedding, &self.output, &self.positions].map(Option::as_ref);
        let matrices = self.maps.values().chain(others.into_iter().flatten());
        matrices.map(PackedMatrix::bytes).sum()
    }

    /// Rotary positions of a layer; layers with the same ones share a table.
    pub fn rotary(&self, layer: usize) -> Option<&RotaryTable> {
        self.rotaries[layer].map(|index| &self.tables[index])
    }

    pub(crate) fn heads(&self, layer: usize) -> AttentionHeads {
        let attention = &self.spec.layers[layer].attention;
        AttentionHeads {
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            scale: attention.scale,
            window: attention.window.and_then(NonZeroUsize::new),
        }
    }

    pub(crate) fn formula(&self) -> (NormFormula, f32) {
        let formula = match self.spec.norm.kind {
            NormKind::Rms => NormFormula::Rms,
            NormKind::Layer => NormFormula::Layer,
        };
        (formula, self.spec.norm.epsilon)
    }
}

fn read(weights: &dyn WeightSource, role: WeightRole) -> Result<Vec<f32>, DecoderError> {
    let mut values = Vec::new();
    weights.append(role, &mut values)?;
    Ok(values)
}

/// The weights of a normalisation as the kernels take them.
pub(crate) fn norm_weights(norm: &Norm) -> NormWeights<'_> {
    NormWeights {
        weight: &norm.weight,
        bias: norm.bias.as_deref().unwrap_or(&[]),
    }
}

/// For each layer the index of its table, and the tables.
fn rotaries(spec: &ArchSpec, positions: usize) -> (Vec<Option<usize>>, Vec<RotaryTable>) {
    let (mut kinds, mut tables, mut of_layers): (Vec<&Position>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    for layer in &spec.layers {
        let kind = &layer.attention.position;
        let Position::Rotary {
            inverse_frequencies,
            magnitude,
        } = kind
        else {
            of_layers.push(None);
            continue;
        };
        let known = kinds.iter().position(|known| *known == kind);
        of_layers.push(Some(known.unwrap_or(kinds.len())));
        if known.is_none() {
            kinds.push(kind);
            tables.push(RotaryTable::new(inverse_frequencies, *magnitude, positions));
        }
    }
    (of_layers, tables)
}

/// What the kernels want of an architecture.
fn check(spec: &ArchSpec, max_length: usize) -> Result<(), DecoderError> {
    let refuse = |reason: String| Err(DecoderError::Unsupported(reason));
    if max_length > spec.context_length {
        return refuse(format!(
            "sequences of {max_length} tokens are longer than what the model was made for ({})",
            spec.context_length
        ));
    }
    if let Some(rows) = spec.position_embeddings.filter(|rows| *rows < max_length) {
        return refuse(format!(
            "the model knows {rows} positions, sequences are up to {max_length} tokens"
        ));
    }
    for (index, layer) in spec.layers.iter().enumerate() {
        let attention = &layer.attention;
        let (heads, kv_heads, width) = (attention.heads, attention.kv_heads, attention.head_dim);
        if kv_heads == 0 || heads % kv_heads != 0 || width % 16 != 0 || attention.window == Some(0) {
            return refuse(format!("layer {index}: {attention:?} does not fit together"));
        }
        let widths = [spec.hidden_size, heads * width, layer.feed_forward.inner_size()];
        if let Some(width) = widths.into_iter().find(|width| width % 32 != 0) {
            return refuse(format!("layer {index}: a width of {width} is not a multiple of 32"));
        }
    }
    Ok(())
}
