//! The operations of [`Graph`] on candle's tensors.
//!
//! The residual stream is f32, what is between a normalisation and the stream in the numbers of the products. Candle's
//! operations can fail; the walk cannot: the first failure is kept, and everything after it is left out.

use std::collections::BTreeMap;
use std::ptr;

use candle_core::{D, DType, Error, Result, Tensor};
use rootstock_decoder::{Batch, FrozenModel, Graph, Trained};
use rootstock_kernels::{Context, RotaryTable};
use rootstock_model::adapter::BottleneckInput;
use rootstock_model::{Activation, BlockSite, NormKind, NormSite, Site};

use crate::groups::Groups;
use crate::leaves::Leaves;
use crate::weights::{Norm, Weights};

/// A value by its place; none after a failure.
pub type Value = Option<usize>;

/// What a step is computed with.
pub struct Walk<'a> {
    pub model: &'a FrozenModel,
    pub weights: &'a Weights,
    pub trained: &'a Trained,
    pub leaves: Leaves<'a>,
    pub batch: &'a Batch,
    /// Decides what is dropped; `None` drops nothing.
    pub dropout_key: Option<u64>,
    /// Draws masks of dropout.
    pub context: &'a mut Context,
    /// Squared lengths of the outputs' frozen weights, for magnitudes.
    pub squares: &'a mut BTreeMap<Site, Tensor>,
    pub groups: Groups,
    /// Additive masks of attention by length and window.
    pub masks: BTreeMap<(usize, Option<usize>), Tensor>,
    /// Cosines and sines of the batch's positions.
    pub rotations: Vec<(&'a RotaryTable, [Tensor; 2])>,
    pub values: Vec<Tensor>,
    pub failure: Option<Error>,
}

impl Walk<'_> {
    /// Runs some operations on `x`; what came of them. Everything between is dropped but for what a graph keeps.
    pub fn run(&mut self, x: &Tensor, operations: impl FnOnce(&mut Self, Value) -> Value) -> Result<Tensor> {
        self.values.push(x.clone());
        let out = operations(self, Some(0));
        let out = self.at(out);
        self.values.clear();
        self.failure.take().map_or(out, Err)
    }

    fn at(&self, value: Value) -> Result<Tensor> {
        let value = value.map(|index| self.values[index].clone());
        value.ok_or_else(|| Error::Msg("left out after a failure".to_owned()))
    }

    /// Computes a value from others.
    fn push(&mut self, make: impl FnOnce(&mut Self) -> Result<Tensor>) -> Value {
        if self.failure.is_some() {
            return None;
        }
        match make(self) {
            Ok(made) => self.values.push(made),
            Err(failure) => {
                self.failure = Some(failure);
                return None;
            }
        }
        Some(self.values.len() - 1)
    }

    fn normed(&mut self, x: &Tensor, site: NormSite) -> Result<Tensor> {
        let (weights, spec) = (self.weights, self.model.spec().norm);
        let Norm { weight, bias } = match self.trained.norms.get(&site) {
            None => &weights.norms[&site],
            Some(training) => &Norm {
                weight: self.leaves.get(training.weight)?,
                bias: training.bias.map(|bias| self.leaves.get(bias)).transpose()?,
            },
        };
        // Rows of the stream, or the heads in them.
        let groups = x.reshape(((), weight.dim(0)?))?.to_dtype(DType::F32)?;
        let centred = match spec.kind {
            NormKind::Rms => groups,
            NormKind::Layer => groups.broadcast_sub(&groups.mean_keepdim(D::Minus1)?)?,
        };
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let length = (variance + f64::from(spec.epsilon))?.sqrt()?;
        let scaled = centred.broadcast_div(&length)?.broadcast_mul(weight)?;
        let normed = match bias {
            Some(bias) => scaled.broadcast_add(bias)?,
            None => scaled,
        };
        normed.reshape(x.shape())?.to_dtype(weights.kind)
    }

    fn rotated(&mut self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let Some([cos, sin]) = self.rotation(layer)? else {
            return Ok(x.clone());
        };
        let (rows, width) = x.dims2()?;
        let head = self.model.spec().layers[layer].attention.head_dim;
        let (heads, pairs) = (x.reshape((rows, width / head, head))?, cos.dim(D::Minus1)?);
        let (first, second) = (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?);
        let turned = [
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ];
        let rest = (2 * pairs < head).then(|| heads.narrow(2, 2 * pairs, head - 2 * pairs));
        let parts: Vec<Tensor> = turned.into_iter().chain(rest.transpose()?).collect();
        Tensor::cat(&parts, 2)?.reshape((rows, width))
    }

    /// Cosines and sines of the batch's positions, `[rows, 1, pairs]`.
    fn rotation(&mut self, layer: usize) -> Result<Option<[Tensor; 2]>> {
        let Some(table) = self.model.rotary(layer) else {
            return Ok(None);
        };
        let known = self.rotations.iter().find(|(known, _)| ptr::eq(*known, table));
        if let Some((_, rotation)) = known {
            return Ok(Some(rotation.clone()));
        }
        let rows = || self.batch.positions().iter().map(|&position| table.row(position));
        let values: [Vec<f32>; 2] = [
            rows().flat_map(|(cos, _)| cos).copied().collect(),
            rows().flat_map(|(_, sin)| sin).copied().collect(),
        ];
        let shape = (self.batch.positions().len(), 1, ());
        let on_device = |values: &Vec<f32>| {
            let values = Tensor::from_slice(values, values.len(), &self.weights.device)?;
            values.reshape(shape)?.to_dtype(self.weights.kind)
        };
        let rotation = [on_device(&values[0])?, on_device(&values[1])?];
        self.rotations.push((table, rotation.clone()));
        Ok(Some(rotation))
    }
}

/// An activation of every element.
pub fn activated(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Relu => x.relu(),
        // The cube in its backward pass leaves float16 at 40.
        Activation::GeluTanh => x.to_dtype(DType::F32)?.gelu()?.to_dtype(x.dtype()),
    }
}

impl Graph for Walk<'_> {
    type Value = Value;

    fn embed(&mut self) -> Value {
        self.push(Self::embedded)
    }

    fn norm(&mut self, x: Value, site: NormSite) -> Value {
        self.push(|walk| walk.normed(&walk.at(x)?, site))
    }

    fn map(&mut self, x: Value, site: Site) -> Value {
        self.push(|walk| walk.mapped(&walk.at(x)?, site))
    }

    fn rotate(&mut self, x: Value, layer: usize) -> Value {
        self.push(|walk| walk.rotated(&walk.at(x)?, layer))
    }

    fn attend(&mut self, queries: Value, keys: Value, values: Value, layer: usize) -> Value {
        self.push(|walk| walk.attended([walk.at(queries)?, walk.at(keys)?, walk.at(values)?], layer))
    }

    fn gate(&mut self, activation: Activation, gate: Value, up: Value) -> Value {
        self.push(|walk| activated(activation, &walk.at(gate)?)? * walk.at(up)?)
    }

    fn activate(&mut self, activation: Activation, x: Value) -> Value {
        self.push(|walk| activated(activation, &walk.at(x)?))
    }

    fn bottleneck(&mut self, x: Value, site: BlockSite, input: BottleneckInput) -> Value {
        let training = self.trained.bottlenecks.get(&site);
        match training.filter(|training| training.input == input) {
            Some(training) => self.push(|walk| walk.with_bottleneck(&walk.at(x)?, training)),
            None => x,
        }
    }

    fn add(&mut self, residual: Value, x: Value) -> Value {
        self.push(|walk| walk.at(residual)? + walk.at(x)?.to_dtype(DType::F32)?)
    }
}
