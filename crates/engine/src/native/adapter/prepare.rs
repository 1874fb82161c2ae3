//! From an adapter's effects to what the kernels take: checked against the base's shapes, differences taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rootstock_formats::DType;
use rootstock_kernels::{BLOCK, BlockFormat, Context, ElementType, Isa, LowRankPair, PackedMatrix, ThreadPool};
use rootstock_model::adapter::{
    Adapter, AdapterError, AdapterErrorCode as Code, AdapterTensor, BiasEffect, BiasKind, Bottleneck, Effect, LowRank,
    MatrixEffect, NormEffect,
};
use rootstock_model::{Norm, Site};

use super::{MapChange, NativeAdapter, NormChange, ScaledPair, index};
use crate::native::bottleneck::PackedBottleneck;
use crate::native::dora::{Magnitude, Products};
use crate::native::embed::{EmbeddingChange, EmbeddingPair};
use crate::native::weights::{PackedModel, kernel};
use crate::runner::{AdapterPreparer, PreparedAdapter};

/// Packs adapters for the native runner.
pub(in crate::native) struct NativePreparer {
    model: Arc<PackedModel>,
    isa: Isa,
    /// What norms of changed weights are computed on; made when the first adapter needs them.
    context: Mutex<Option<Context>>,
}

impl NativePreparer {
    pub fn new(model: Arc<PackedModel>, isa: Isa) -> Self {
        Self {
            model,
            isa,
            context: Mutex::new(None),
        }
    }

    fn low_rank(&self, low_rank: &LowRank, adapter: &mut NativeAdapter) -> Result<(), AdapterError> {
        let (site, rank) = (low_rank.site, low_rank.a.rows);
        let (inputs, outputs) = self.shape(site)?;
        if (low_rank.a.cols, low_rank.b.rows) != (inputs, outputs) || low_rank.b.cols != rank {
            let got = format!(
                "[{rank}, {}] and [{}, {}]",
                low_rank.a.cols, low_rank.b.rows, low_rank.b.cols
            );
            let expected = format!("A [r, {inputs}] and B [{outputs}, r]");
            return Err(misfit(site, format!("expected {expected}, got {got}")));
        }
        let magnitude = low_rank.magnitude.as_ref();
        let magnitude = magnitude.map(|values| self.magnitude(low_rank, values)).transpose()?;
        if site == Site::Embedding {
            let pair = EmbeddingPair::pack(floats(&low_rank.a)?, floats(&low_rank.b)?, rank, low_rank.scale);
            let change = adapter.embedding.get_or_insert_default();
            (change.pair, change.magnitude) = (Some(pair), magnitude);
            return Ok(());
        }
        let pair = LowRankPair::pack(typed(&low_rank.a)?, typed(&low_rank.b)?, rank, (inputs, outputs));
        let change = change(adapter, site)?;
        if let Some(magnitude) = magnitude {
            change.beyond.get_or_insert_default().magnitude = Some(magnitude);
        }
        change.pair = Some(ScaledPair {
            pair: pair.map_err(|error| misfit(site, error))?,
            scale: low_rank.scale,
        });
        Ok(())
    }

    fn magnitude(&self, low_rank: &LowRank, values: &AdapterTensor) -> Result<Magnitude, AdapterError> {
        let (site, outputs) = (low_rank.site, low_rank.b.rows);
        if values.rows * values.cols != outputs {
            return Err(misfit(
                site,
                format!("expected a magnitude of {outputs}, got {}", values.rows * values.cols),
            ));
        }
        let (a, b) = (floats(&low_rank.a)?, floats(&low_rank.b)?);
        let products = match self.model.matrix(site) {
            Some(matrix) => self.on_own_thread(site, |context| Products::of_map(context, matrix, &a))?,
            None => Products::of_embedding(&self.model.embedding, &a),
        };
        Magnitude::new(products, (&a, &b), low_rank.scale, floats(values)?).ok_or_else(|| {
            let message =
                format!("{site}: the magnitude divides by the norm of a row of W + BA that is zero or not finite");
            AdapterError::new(Code::NotFinite, message)
        })
    }

    /// Runs kernels beside those of the steps, on the calling thread alone.
    fn on_own_thread<T>(&self, site: Site, run: impl FnOnce(&mut Context) -> T) -> Result<T, AdapterError> {
        let mut context = self.context.lock();
        match &mut *context {
            Some(context) => Ok(run(context)),
            empty => {
                let pool = ThreadPool::new(1).map_err(|error| misfit(site, error))?;
                Ok(run(empty.insert(Context { pool, isa: self.isa })))
            }
        }
    }

    fn bias(&self, effect: &BiasEffect, adapter: &mut NativeAdapter) -> Result<(), AdapterError> {
        let (_, outputs) = self.shape(effect.site)?;
        let mut values = floats(&effect.values)?;
        if values.len() != outputs {
            return Err(misfit(
                effect.site,
                format!("expected a bias of {outputs}, got {}", values.len()),
            ));
        }
        match (effect.kind, self.model.bias(effect.site)) {
            (BiasKind::Replaces, Some(base)) => values.iter_mut().zip(base).for_each(|(value, base)| *value -= base),
            (BiasKind::Replaces, None) => {}
            (BiasKind::Adds(scale), _) => values.iter_mut().for_each(|value| *value *= scale),
        }
        let change = change(adapter, effect.site)?;
        let beyond = change.beyond.get_or_insert_default();
        match &mut beyond.shift {
            Some(shift) => shift.iter_mut().zip(values).for_each(|(shift, value)| *shift += value),
            None => beyond.shift = Some(values),
        }
        Ok(())
    }

    fn matrix(&self, effect: &MatrixEffect, adapter: &mut NativeAdapter) -> Result<(), AdapterError> {
        let site = effect.site;
        // The embedding's rows are tokens, as its packed form has them.
        let base = match site {
            Site::Embedding => Some(&self.model.embedding),
            _ => self.model.matrix(site),
        };
        let base = base.ok_or_else(|| misfit(site, "the base has no such map"))?;
        let (rows, cols) = (base.outputs(), base.inputs());
        if (effect.values.rows, effect.values.cols) != (rows, cols) {
            let got = format!("[{}, {}]", effect.values.rows, effect.values.cols);
            return Err(misfit(site, format!("expected [{rows}, {cols}], got {got}")));
        }
        let delta = difference(&effect.values, base)?;
        if delta.iter().all(|&byte| byte == 0) {
            // peft saves the base's own table beside a pair on it.
            return Ok(());
        }
        let bytes = |row: usize| &delta[row * cols * 4..(row + 1) * cols * 4];
        let packed = PackedMatrix::pack(BlockFormat::F32, rows, cols, bytes).map_err(|error| misfit(site, error))?;
        match site {
            Site::Embedding => adapter.embedding.get_or_insert_default().dense = Some(packed),
            _ => change(adapter, site)?.beyond.get_or_insert_default().dense = Some(packed),
        }
        Ok(())
    }

    fn norm(&self, effect: &NormEffect, adapter: &mut NativeAdapter) -> Result<(), AdapterError> {
        let site = effect.site;
        let Some(Norm { weight, bias }) = self.model.norm(site) else {
            let message = format!("normalisation {site:?}: replacing it per adapter is not served");
            return Err(AdapterError::new(Code::UnsupportedField, message));
        };
        let minus = |own: &[f32], base: &[f32]| -> Result<Vec<f32>, AdapterError> {
            if own.len() != base.len() {
                let message = format!(
                    "normalisation {site:?}: expected {} values, got {}",
                    base.len(),
                    own.len()
                );
                return Err(AdapterError::new(Code::ShapeMismatch, message));
            }
            Ok(own.iter().zip(base).map(|(own, base)| own - base).collect())
        };
        let none = |base: &[f32]| vec![0.0; base.len()];
        let base_bias = bias.as_deref().unwrap_or_default();
        let change = NormChange {
            weight: effect
                .weight
                .as_ref()
                .map_or_else(|| Ok(none(weight)), |own| minus(own, weight))?,
            bias: effect
                .bias
                .as_ref()
                .map_or_else(|| Ok(none(base_bias)), |own| minus(own, base_bias))?,
        };
        adapter.norms.push((site, change));
        Ok(())
    }

    fn bottleneck(&self, effect: &Bottleneck) -> Result<PackedBottleneck, AdapterError> {
        let (width, hidden) = (effect.down.rows, self.model.spec.hidden_size);
        let (mut down_bias, up_bias) = (floats(&effect.down_bias)?, floats(&effect.up_bias)?);
        let got = [
            effect.down.cols,
            effect.up.rows,
            effect.up.cols,
            down_bias.len(),
            up_bias.len(),
        ];
        if got != [hidden, hidden, width, width, hidden] || effect.site.layer >= self.model.spec.layers.len() {
            let message = format!(
                "{}: expected a bottleneck of [{width}, {hidden}] and [{hidden}, {width}], got {got:?}",
                effect.site
            );
            return Err(AdapterError::new(Code::ShapeMismatch, message));
        }
        // Products take inputs in blocks: what lies between the maps is filled up with zeros, which every activation keeps.
        let whole = width.next_multiple_of(BLOCK);
        down_bias.resize(whole, 0.0);
        Ok(PackedBottleneck {
            input: effect.input,
            activation: kernel(effect.activation),
            scale: effect.scale,
            down: padded(&effect.down, [whole, hidden])?,
            down_bias,
            up: padded(&effect.up, [hidden, whole])?,
            up_bias,
        })
    }

    fn shape(&self, site: Site) -> Result<(usize, usize), AdapterError> {
        let shape = self.model.spec.shape(site);
        shape.ok_or_else(|| misfit(site, "the base has no such map"))
    }
}

/// The change of a map, made if there is none yet.
fn change(adapter: &mut NativeAdapter, site: Site) -> Result<&mut MapChange, AdapterError> {
    let layers = adapter.maps.len() / rootstock_model::Projection::ALL.len();
    let place = index(site, layers).and_then(|index| adapter.maps.get_mut(index));
    let place = place.ok_or_else(|| misfit(site, "the base has no such map"))?;
    Ok(place.get_or_insert_default())
}

fn misfit(site: Site, detail: impl std::fmt::Display) -> AdapterError {
    AdapterError::new(Code::ShapeMismatch, format!("{site}: {detail}"))
}

/// A matrix in its own element type, with zeros up to `rows` and `cols`.
fn padded(tensor: &AdapterTensor, [rows, cols]: [usize; 2]) -> Result<PackedMatrix, AdapterError> {
    let (element, bytes) = typed(tensor)?;
    let format = match element {
        ElementType::F32 => BlockFormat::F32,
        ElementType::F16 => BlockFormat::F16,
        ElementType::Bf16 => BlockFormat::Bf16,
    };
    let (row, own) = (cols * element.size(), tensor.cols * element.size());
    let mut whole = vec![0; rows * row];
    for (to, from) in whole.chunks_exact_mut(row).zip(bytes.chunks_exact(own)) {
        to[..own].copy_from_slice(from);
    }
    let line = |output: usize| &whole[output * row..(output + 1) * row];
    PackedMatrix::pack(format, rows, cols, line).map_err(|error| AdapterError::new(Code::ShapeMismatch, error))
}

/// `values` minus the weights of `base`, F32 little endian.
fn difference(values: &AdapterTensor, base: &PackedMatrix) -> Result<Vec<u8>, AdapterError> {
    let own = floats(values)?;
    let mut row = vec![0.0; base.inputs()];
    let mut delta = Vec::with_capacity(own.len() * 4);
    for (output, own) in own.chunks_exact(base.inputs()).enumerate() {
        base.dequantize_row(output, &mut row);
        delta.extend(own.iter().zip(&row).flat_map(|(own, base)| (own - base).to_le_bytes()));
    }
    Ok(delta)
}

fn typed(tensor: &AdapterTensor) -> Result<(ElementType, &[u8]), AdapterError> {
    let element = match tensor.dtype {
        DType::F32 => ElementType::F32,
        DType::F16 => ElementType::F16,
        DType::BF16 => ElementType::Bf16,
        other => {
            let message = format!("adapter tensors of type {other:?} cannot be applied (supported: F32, F16, BF16)");
            return Err(AdapterError::new(Code::Malformed, message));
        }
    };
    Ok((element, &tensor.bytes))
}

fn floats(tensor: &AdapterTensor) -> Result<Vec<f32>, AdapterError> {
    typed(tensor)?;
    Ok(tensor.to_f32())
}

impl AdapterPreparer for NativePreparer {
    fn prepare(&self, adapter: &Adapter) -> Result<Arc<dyn PreparedAdapter>, AdapterError> {
        let maps = self.model.spec.layers.len() * rootstock_model::Projection::ALL.len() + 1;
        let mut prepared = NativeAdapter {
            hash: adapter.hash,
            bytes: 0,
            maps: std::iter::repeat_with(|| None).take(maps).collect(),
            embedding: None,
            norms: Vec::new(),
            bottlenecks: BTreeMap::new(),
            has_magnitudes: false,
        };
        for effect in &adapter.effects {
            match effect {
                Effect::LowRank(low_rank) => self.low_rank(low_rank, &mut prepared)?,
                Effect::Bias(bias) => self.bias(bias, &mut prepared)?,
                Effect::Matrix(matrix) => self.matrix(matrix, &mut prepared)?,
                Effect::Norm(norm) => self.norm(norm, &mut prepared)?,
                Effect::Bottleneck(bottleneck) => {
                    prepared
                        .bottlenecks
                        .insert(bottleneck.site, self.bottleneck(bottleneck)?);
                }
            }
        }
        let mut maps_with = prepared.maps.iter().flatten();
        prepared.has_magnitudes = maps_with.any(|map| map.magnitude().is_some());
        let norms = prepared.norms.iter().map(|(_, norm)| size_of_val(&norm.weight[..]) * 2);
        prepared.bytes = size_of::<NativeAdapter>()
            + maps * size_of::<Option<MapChange>>()
            + prepared.maps.iter().flatten().map(MapChange::bytes).sum::<usize>()
            + prepared.embedding.as_ref().map_or(0, EmbeddingChange::bytes)
            + norms.sum::<usize>()
            + prepared
                .bottlenecks
                .values()
                .map(PackedBottleneck::bytes)
                .sum::<usize>();
        Ok(Arc::new(prepared))
    }
}
