//! The frozen model on a device: every matrix in the numbers of the products, whatever it is stored in.
//!
//! Four-bit weights are decoded here, once: the values that are trained on are those of the blocks, but they take the device two
//! or four bytes each. Our own kernels keep the blocks.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use rootstock_decoder::FrozenModel;
use rootstock_kernels::PackedMatrix;
use rootstock_model::{NormSite, Site};

/// Weights of a normalisation, f32.
pub struct Norm {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

/// Weights that do not change.
pub struct Weights {
    pub device: Device,
    /// Of values between normalisations, and of `maps`.
    pub kind: DType,
    /// `[outputs, inputs]`; those are missing that the model let go of, since others are trained in their place.
    pub maps: BTreeMap<Site, Tensor>,
    /// f32
    pub biases: BTreeMap<Site, Tensor>,
    pub norms: BTreeMap<NormSite, Norm>,
}

impl Weights {
    /// Decodes and moves a model. The embedding stays where it is, since a step reads but a few of its rows.
    pub fn new(model: &FrozenModel, device: &Device, kind: DType, threads: usize) -> Result<Self> {
        let spec = model.spec();
        let (mut maps, mut biases, mut norms) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for site in spec.sites().filter(|site| *site != Site::Embedding) {
            if let Some(matrix) = model.kept_matrix(site) {
                let shape = (matrix.outputs(), matrix.inputs());
                let weight = Tensor::from_vec(decode(matrix, threads), shape, &Device::Cpu)?;
                maps.insert(site, weight.to_dtype(kind)?.to_device(device)?);
            }
            if let Some(bias) = model.bias(site) {
                biases.insert(site, Tensor::new(bias, device)?);
            }
        }
        let layers = spec.layers.iter().enumerate();
        let of_layers = layers.flat_map(|(index, layer)| layer.norms(index));
        for site in of_layers.chain([NormSite::Final]) {
            let norm = model.norm(site);
            let bias = norm.bias.as_deref().map(|bias| Tensor::new(bias, device));
            let weight = Tensor::new(norm.weight.as_slice(), device)?;
            norms.insert(
                site,
                Norm {
                    weight,
                    bias: bias.transpose()?,
                },
            );
        }
        Ok(Self {
            device: device.clone(),
            kind,
            maps,
            biases,
            norms,
        })
    }
}

/// The values of a matrix, row by row.
fn decode(matrix: &PackedMatrix, threads: usize) -> Vec<f32> {
    let mut values = vec![0.0; matrix.outputs() * matrix.inputs()];
    let rows_each = matrix.outputs().div_ceil(threads);
    std::thread::scope(|scope| {
        for (part, values) in values.chunks_mut(rows_each * matrix.inputs()).enumerate() {
            scope.spawn(move || {
                for (row, to) in values.chunks_exact_mut(matrix.inputs()).enumerate() {
                    matrix.dequantize_row(part * rows_each + row, to);
                }
            });
        }
    });
    values
}
