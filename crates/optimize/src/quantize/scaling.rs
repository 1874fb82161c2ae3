//! Scaling of inputs, as AWQ does it (Lin et al., 2023): inputs that matter are multiplied before their weights are rounded, so that
//! they lose less, and what gives them is divided by the same. The model computes what it did.
//!
//! ```text
//! scaled here                 divided there
//! queries, keys, values       the normalisation before attention
//! output of attention         values, a head's channels for all queries that share them
//! gate, up                    the normalisation before the feed-forward
//! down                        up (not where an activation lies between)
//! ```
//!
//! A scale is `magnitude^a`, magnitude the mean of |x|; `a` is searched on a grid for what rounding then costs the maps' outputs.

use std::collections::BTreeMap;
use std::ops::Range;

use rootstock_decoder::{Batch, FrozenModel};
use rootstock_formats::DType;
use rootstock_kernels::{Context, GroupFormat};
use rootstock_model::checkpoint::Role;
use rootstock_model::{ArchSpec, FeedForward, ModelError, NormSite, Projection, Site, WeightSource};

use super::rounding::Matrix;
use crate::OptimizeError;
use crate::calibrate::{Hessian, Moments, Walk, WalkSettings, input_site};

/// Values of `a` that are tried, from 0 to 1.
const GRID: usize = 20;
/// Rows of a map that the search looks at.
const ROWS: usize = 192;

/// Weights with their inputs scaled.
pub struct Scaled<'a> {
    spec: &'a ArchSpec,
    weights: &'a (dyn WeightSource + Sync),
    /// By the site that an input is known by.
    scales: BTreeMap<Site, Vec<f32>>,
}

impl<'a> Scaled<'a> {
    /// Searches the scales of every input, for weights that will be rounded to these types, in groups as
    /// [`super::Quantizer::grouped`] has it. `progress` is told the layers that are
    /// done.
    ///
    /// # Errors
    /// A model that cannot be run, or weights that cannot be rounded.
    pub fn search(
        spec: &'a ArchSpec,
        weights: &'a (dyn WeightSource + Sync),
        (types, groups): (&BTreeMap<Role, DType>, Option<GroupFormat>),
        batches: &[Batch],
        settings: WalkSettings,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, OptimizeError> {
        let mut walk = Walk::new(spec, weights, batches, settings)?;
        let mut scales = BTreeMap::new();
        for index in 0..spec.layers.len() {
            let model = FrozenModel::load_layer(spec, weights, index, settings.max_length)?;
            let mut seen = BTreeMap::<Site, (Moments, Hessian)>::new();
            walk.observe_and_advance(&model, index, &mut |context, site, rows| {
                let width = spec.shape(site).map_or(1, |(inputs, _)| inputs);
                let (moments, hessian) = seen
                    .entry(site)
                    .or_insert_with(|| (Moments::default(), Hessian::new(width)));
                moments.add(rows, width);
                hessian.add(context, rows);
            });
            for (site, (moments, hessian)) in &seen {
                let magnitudes = shared(spec, *site, moments.mean_magnitudes());
                let maps = maps_of(spec, *site, (weights, settings.threads), (types, groups));
                if !is_foldable(spec, *site) || maps.iter().all(|(_, dtype)| dtype.is_float()) {
                    continue;
                }
                let found = best(walk.context(), &maps, &magnitudes, moments, hessian)?;
                scales.extend(found.map(|found| (*site, found)));
            }
            progress(index + 1);
        }
        Ok(Self { spec, weights, scales })
    }

    fn scale(&self, layer: usize, projection: Projection) -> Option<&[f32]> {
        self.scales
            .get(&input_site(Site::Layer { layer, projection }))
            .map(Vec::as_slice)
    }

    /// What the outputs of a map are divided by: the scales of the input that they become.
    fn divisors(&self, layer: usize, projection: Projection) -> Option<Vec<f32>> {
        match projection {
            Projection::Value => {
                let scales = self.scale(layer, Projection::Output)?;
                let attention = &self.spec.layers[layer].attention;
                let (width, group) = (attention.head_dim, attention.heads / attention.kv_heads);
                let heads = scales.chunks_exact(width).step_by(group);
                Some(heads.flatten().copied().collect())
            }
            Projection::Up => self.scale(layer, Projection::Down).map(<[f32]>::to_vec),
            _ => None,
        }
    }

    fn divisors_of(&self, role: Role) -> Option<Vec<f32>> {
        match role {
            Role::Weight { layer, projection } | Role::Bias { layer, projection } => self.divisors(layer, projection),
            Role::Norm(NormSite::Attention(layer)) | Role::NormBias(NormSite::Attention(layer)) => {
                self.scale(layer, Projection::Query).map(<[f32]>::to_vec)
            }
            Role::Norm(NormSite::FeedForward(layer)) | Role::NormBias(NormSite::FeedForward(layer)) => {
                self.scale(layer, Projection::Up).map(<[f32]>::to_vec)
            }
            _ => None,
        }
    }
}

impl WeightSource for Scaled<'_> {
    fn release(&self) {
        self.weights.release();
    }

    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        if let &[rows, _] = role.shape(self.spec).as_slice() {
            return self.append_rows(role, 0..rows, rows, to);
        }
        let start = to.len();
        self.weights.append(role, to)?;
        let divisors = self.divisors_of(role).unwrap_or_default();
        to[start..]
            .iter_mut()
            .zip(&divisors)
            .for_each(|(value, divisor)| *value /= divisor);
        Ok(())
    }

    fn append_rows(&self, role: Role, wanted: Range<usize>, rows: usize, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let start = to.len();
        self.weights.append_rows(role, wanted.clone(), rows, to)?;
        let Role::Weight { layer, projection } = role else {
            return Ok(());
        };
        let width = (to.len() - start) / wanted.len().max(1);
        if let Some(scales) = self.scale(layer, projection) {
            let rows = to[start..].chunks_exact_mut(width);
            rows.for_each(|row| row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale));
        }
        if let Some(divisors) = self.divisors(layer, projection) {
            let rows = to[start..].chunks_exact_mut(width).zip(&divisors[wanted]);
            rows.for_each(|(row, divisor)| row.iter_mut().for_each(|value| *value /= divisor));
        }
        Ok(())
    }
}

/// Whether what gives an input can be divided.
fn is_foldable(spec: &ArchSpec, site: Site) -> bool {
    match site {
        Site::Layer { layer, projection } => {
            let plain = matches!(spec.layers[layer].feed_forward, FeedForward::Plain { .. });
            !(plain && projection == Projection::Down)
        }
        Site::Embedding | Site::Output => false,
    }
}

/// Magnitudes that can be divided where they come from: a channel of a head has one for all queries that share the head.
fn shared(spec: &ArchSpec, site: Site, mut magnitudes: Vec<f32>) -> Vec<f32> {
    let Site::Layer {
        layer,
        projection: Projection::Output,
    } = site
    else {
        return magnitudes;
    };
    let attention = &spec.layers[layer].attention;
    let (width, group) = (attention.head_dim, attention.heads / attention.kv_heads);
    for heads in magnitudes.chunks_exact_mut(width * group) {
        for channel in 0..width {
            let sum: f32 = heads.iter().skip(channel).step_by(width).sum();
            let mean = sum / group as f32;
            heads
                .iter_mut()
                .skip(channel)
                .step_by(width)
                .for_each(|value| *value = mean);
        }
    }
    magnitudes
}

/// The maps that are given an input, and the types they will have.
fn maps_of<'a>(
    spec: &ArchSpec,
    site: Site,
    (weights, threads): (&'a (dyn WeightSource + Sync), usize),
    (types, groups): (&BTreeMap<Role, DType>, Option<GroupFormat>),
) -> Vec<(Matrix<'a>, DType)> {
    let Site::Layer { layer, .. } = site else {
        return Vec::new();
    };
    let sharing = spec.layers[layer]
        .projections()
        .filter(|&projection| input_site(Site::Layer { layer, projection }) == site);
    let map = |projection| {
        let role = Role::Weight { layer, projection };
        let shape = role.shape(spec);
        let matrix = Matrix {
            weights,
            role,
            shape: [shape[0], shape[1]],
            threads,
            groups,
        };
        (matrix, types.get(&role).copied().unwrap_or(DType::F32))
    };
    sharing.map(map).collect()
}

/// The scales that cost least; `None` if none is better than no scales.
fn best(
    context: &mut Context,
    maps: &[(Matrix<'_>, DType)],
    magnitudes: &[f32],
    moments: &Moments,
    hessian: &Hessian,
) -> Result<Option<Vec<f32>>, OptimizeError> {
    let mut samples = Vec::new();
    for (matrix, dtype) in maps.iter().filter(|(_, dtype)| !dtype.is_float()) {
        let step = matrix.shape[0].div_ceil(ROWS).max(1);
        let mut rows = Vec::new();
        for row in (0..matrix.shape[0]).step_by(step) {
            matrix.rows(row..row + 1, &mut rows)?;
        }
        samples.push((matrix, *dtype, rows));
    }
    let squares = moments.mean_squares();
    let (mut least, mut found) = (f64::INFINITY, None);
    for step in 0..GRID {
        let scales = scales(magnitudes, step as f32 / GRID as f32);
        let mut cost = 0.0;
        for (matrix, dtype, rows) in &samples {
            cost += lost(context, (matrix, *dtype), rows, &scales, &squares, hessian)?;
        }
        if cost < least {
            (least, found) = (cost, Some((step, scales)));
        }
    }
    Ok(found.filter(|(step, _)| *step > 0).map(|(_, scales)| scales))
}

/// `magnitude^power`, around 1.
fn scales(magnitudes: &[f32], power: f32) -> Vec<f32> {
    let scales: Vec<f32> = magnitudes.iter().map(|value| value.max(1e-4).powf(power)).collect();
    let (least, most) = scales.iter().fold((f32::MAX, 0f32), |(least, most), &value| {
        (least.min(value), most.max(value))
    });
    let middle = (least * most).sqrt();
    scales.into_iter().map(|value| value / middle).collect()
}

/// What rounding scaled rows costs of what they give.
fn lost(
    context: &mut Context,
    (matrix, dtype): (&Matrix<'_>, DType),
    rows: &[f32],
    scales: &[f32],
    squares: &[f32],
    hessian: &Hessian,
) -> Result<f64, OptimizeError> {
    let width = scales.len();
    let scaled = rows
        .chunks_exact(width)
        .flat_map(|row| row.iter().zip(scales).map(|(value, scale)| value * scale));
    let scaled: Vec<f32> = scaled.collect();
    let importance: Vec<f32> = squares
        .iter()
        .zip(scales)
        .map(|(square, scale)| square / (scale * scale))
        .collect();
    let (mut bytes, mut back) = (Vec::new(), Vec::with_capacity(rows.len()));
    let encoded = matrix.encode(dtype, &scaled, Some(&importance), &mut bytes);
    encoded.map_err(|reason| matrix.refused(reason))?;
    matrix.decode(dtype, &bytes, &mut back)?;
    for (back, row) in back.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        let values = back.iter_mut().zip(row).zip(scales);
        values.for_each(|((back, value), scale)| *back = *back / scale - value);
    }
    Ok(hessian.energy(context, &back))
}
