//! Types chosen by what they cost: the smallest file whose distribution of next tokens is at most so far from the source's.
//!
//! ```text
//! for each tensor: KL(source || source with this tensor in the smallest type), by running the layers from its own on
//! in a larger type it is taken to shrink with the squared error; those of several tensors are taken to add up
//! until the sum is within the budget: the tensor with the most KL saved per byte gets its next type
//! the whole is measured; if it is too far, or much nearer than it may be, the budget is changed and the choice made again
//! ```

use std::collections::BTreeMap;

use rootstock_decoder::{Batch, FrozenModel};
use rootstock_formats::DType;
use rootstock_kernels::{Gemm, LogitPairs, PackedMatrix, Right, View, gemm};
use rootstock_model::checkpoint::{Role, StoredTensor};
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_model::{Checkpoint, Site};

use super::rounding::{Matrix, packed};
use crate::OptimizeError;
use crate::calibrate::{Moments, Walk, WalkSettings, input_site};
use crate::divergence::Divergence;

/// Times the budget is changed.
const ROUNDS: usize = 5;
/// A choice that is nearer than this share of what is allowed is made again.
const NEAR: f64 = 0.8;
/// Rows of logits that stand at a time.
const LOGIT_ROWS: usize = 128;

/// What is chosen from, for whom.
#[derive(Clone, Copy)]
pub struct Budget<'a> {
    /// Types, smallest first.
    pub types: &'a [DType],
    /// Most nats per token that the model may be away from the source.
    pub max_kl: f64,
    /// The text that this is measured on.
    pub batches: &'a [Batch],
    /// How it is run.
    pub settings: WalkSettings,
}

/// What was chosen.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Types of the file's tensors, in their order.
    pub types: Vec<DType>,
    /// KL of the whole on the text, in nats per token.
    pub kl: f64,
}

/// A tensor of a layer and what its types cost.
struct Unit {
    /// Its place in the file.
    tensor: usize,
    layer: usize,
    maps: Vec<(Role, Site)>,
    options: Vec<Offer>,
    chosen: usize,
}

/// A tensor in one of its types.
struct Offer {
    dtype: DType,
    bytes: usize,
    /// Squared error of the weights.
    lost: f64,
    /// Estimated.
    kl: f64,
}

/// A model that tensors are exchanged in, and the text on its way through it as it was.
struct Probe<'a> {
    checkpoint: &'a Checkpoint,
    budget: Budget<'a>,
    model: FrozenModel,
    walk: Walk<'a>,
    /// Before each layer.
    streams: Vec<Vec<Vec<f32>>>,
    /// What the source gives its output projection.
    output: Vec<Vec<f32>>,
    /// Mean squares of what maps are given.
    importance: BTreeMap<Site, Vec<f32>>,
}

/// Chooses types for the maps of all layers; the others keep those of `types`. `progress` is told how many of how many tensors are
/// done.
///
/// # Errors
/// A model that cannot be run, or no choice that is near enough.
pub fn choose(
    checkpoint: &Checkpoint,
    tensors: &[StoredTensor],
    types: &[DType],
    budget: Budget<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Chosen, OptimizeError> {
    let mut probe = Probe::new(checkpoint, budget)?;
    let mut units = units(tensors, budget.types);
    let count = units.len();
    for (index, unit) in units.iter_mut().enumerate() {
        probe.measure(unit)?;
        progress(index + 1, count);
    }
    let (mut allowed, mut best): (f64, Option<Chosen>) = (budget.max_kl, None);
    for _ in 0..ROUNDS {
        assign(&mut units, allowed);
        let kl = probe.whole(&units)?;
        if kl <= budget.max_kl {
            let mut chosen = types.to_vec();
            units
                .iter()
                .for_each(|unit| chosen[unit.tensor] = unit.options[unit.chosen].dtype);
            best = Some(Chosen { types: chosen, kl });
            if kl >= NEAR * budget.max_kl || units.iter().all(|unit| unit.chosen == 0) {
                break;
            }
        }
        allowed *= (0.95 * budget.max_kl / kl.max(f64::MIN_POSITIVE)).clamp(0.2, 4.0);
    }
    best.ok_or_else(|| OptimizeError::Setting {
        field: "--max-kl".to_owned(),
        reason: format!(
            "no choice of types is within {} on this text; allow more",
            budget.max_kl
        ),
    })
}

/// The tensors of layers, each with those of the types that fit it.
fn units(tensors: &[StoredTensor], types: &[DType]) -> Vec<Unit> {
    let mut units = Vec::new();
    for (tensor, stored) in tensors.iter().enumerate() {
        let maps = stored.parts.iter().filter_map(|&(role, _)| match role {
            Role::Weight { layer, projection } => Some((layer, (role, Site::Layer { layer, projection }))),
            _ => None,
        });
        let (layers, maps): (Vec<usize>, Vec<_>) = maps.unzip();
        let width = stored.shape.last().copied().unwrap_or(0);
        let fitting = types.iter().filter(|dtype| width % dtype.block().0 == 0);
        let options: Vec<Offer> = fitting
            .map(|&dtype| Offer {
                dtype,
                bytes: dtype.tensor_bytes(&stored.shape).unwrap_or(0),
                lost: 0.0,
                kl: 0.0,
            })
            .collect();
        if let (Some(&layer), false) = (layers.first(), options.is_empty()) {
            units.push(Unit {
                tensor,
                layer,
                maps,
                options,
                chosen: 0,
            });
        }
    }
    units
}

/// Gives tensors larger types until the sum of what they cost is allowed.
fn assign(units: &mut [Unit], allowed: f64) {
    units.iter_mut().for_each(|unit| unit.chosen = 0);
    let mut sum: f64 = units.iter().map(|unit| unit.options[0].kl).sum();
    while sum > allowed {
        // A type that saves nothing is passed over for the next one.
        let offers = units.iter().enumerate().flat_map(|(index, unit)| {
            let now = &unit.options[unit.chosen];
            let larger = unit.options.iter().enumerate().skip(unit.chosen + 1);
            larger.map(move |(next, offer)| {
                let cost = (offer.bytes as f64 - now.bytes as f64).max(1.0);
                ((now.kl - offer.kl) / cost, index, next)
            })
        });
        let Some((gain, index, next)) = offers.max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return;
        };
        if gain <= 0.0 {
            return;
        }
        let unit = &mut units[index];
        sum -= unit.options[unit.chosen].kl - unit.options[next].kl;
        unit.chosen = next;
    }
}

impl<'a> Probe<'a> {
    fn new(checkpoint: &'a Checkpoint, budget: Budget<'a>) -> Result<Self, OptimizeError> {
        let stored = Packing {
            precision: WeightPrecision::Stored,
            four_bit_output: false,
            threads: budget.settings.threads,
        };
        let model = FrozenModel::load(checkpoint, budget.settings.max_length, stored)?;
        let spec = checkpoint.spec();
        let mut walk = Walk::new(spec, checkpoint, budget.batches, budget.settings)?;
        let (mut streams, mut moments) = (Vec::new(), BTreeMap::<Site, Moments>::new());
        for index in 0..spec.layers.len() {
            streams.push(walk.rows().to_vec());
            walk.observe_and_advance(&model, index, &mut |_, site, rows| {
                let width = spec.shape(site).map_or(1, |(inputs, _)| inputs);
                moments.entry(site).or_default().add(rows, width);
            });
        }
        Ok(Self {
            checkpoint,
            budget,
            output: walk.output(&model),
            model,
            walk,
            streams,
            importance: moments
                .into_iter()
                .map(|(site, moments)| (site, moments.mean_squares()))
                .collect(),
        })
    }

    fn rounded(&self, unit: &Unit, option: usize) -> Result<(Vec<(Site, PackedMatrix)>, f64), OptimizeError> {
        let (mut matrices, mut lost) = (Vec::new(), 0.0);
        let dtype = unit.options[option].dtype;
        for &(role, site) in &unit.maps {
            let shape = role.shape(self.checkpoint.spec());
            let matrix = Matrix {
                weights: self.checkpoint,
                role,
                shape: [shape[0], shape[1]],
                threads: self.budget.settings.threads,
                groups: None,
            };
            let importance = self.importance.get(&input_site(site)).map(Vec::as_slice);
            let rounded = matrix.round(dtype, importance)?;
            lost += rounded.loss.lost;
            matrices.push((site, packed(&matrix, dtype, &rounded.bytes)?));
        }
        Ok((matrices, lost))
    }

    /// What a tensor costs in each of its types.
    fn measure(&mut self, unit: &mut Unit) -> Result<(), OptimizeError> {
        let mut smallest = Vec::new();
        for option in 0..unit.options.len() {
            let (matrices, lost) = self.rounded(unit, option)?;
            unit.options[option].lost = lost;
            if option == 0 {
                smallest = matrices;
            }
        }
        let kept = self.exchange(smallest);
        let kl = self.run_from(unit.layer);
        self.exchange(kept);
        let (kl, first) = (kl?, unit.options[0].lost.max(f64::MIN_POSITIVE));
        unit.options
            .iter_mut()
            .for_each(|offer| offer.kl = kl * offer.lost / first);
        Ok(())
    }

    /// What all tensors cost as they are chosen.
    fn whole(&mut self, units: &[Unit]) -> Result<f64, OptimizeError> {
        let mut kept = Vec::new();
        for unit in units {
            let (matrices, _) = self.rounded(unit, unit.chosen)?;
            kept.extend(self.exchange(matrices));
        }
        let kl = self.run_from(0);
        self.exchange(kept);
        kl
    }

    /// Puts matrices in the places of others, which it gives.
    fn exchange(&mut self, matrices: Vec<(Site, PackedMatrix)>) -> Vec<(Site, PackedMatrix)> {
        let matrices = matrices.into_iter();
        let before = matrices.filter_map(|(site, matrix)| Some((site, self.model.replace(site, matrix)?)));
        before.collect()
    }

    /// KL of the model as it is from the source, run from a layer on.
    fn run_from(&mut self, layer: usize) -> Result<f64, OptimizeError> {
        self.walk.set_rows(self.streams[layer].clone());
        for index in layer..self.streams.len() {
            self.walk.advance(&self.model, index);
        }
        let (output, mut divergence) = (self.walk.output(&self.model), Divergence::default());
        let hidden = self.checkpoint.spec().hidden_size;
        let projection = self.model.matrix(Site::Output);
        let context = self.walk.context();
        let [mut source, mut other] = [Vec::new(), Vec::new()];
        for (batch, (expected, found)) in self.budget.batches.iter().zip(self.output.iter().zip(&output)) {
            // The last token of a sequence predicts nothing that is known.
            let targets = &batch.tokens()[1..];
            for (index, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
                let rows = index * LOGIT_ROWS * hidden..(index * LOGIT_ROWS + targets.len()) * hidden;
                for (rows, logits) in [(&expected[rows.clone()], &mut source), (&found[rows], &mut other)] {
                    logits.resize(targets.len() * projection.outputs(), 0.0);
                    gemm(
                        context,
                        &Gemm::new(View::new(rows, hidden), Right::Forward(projection)),
                        logits,
                    );
                }
                let pairs = LogitPairs {
                    source: &source,
                    other: &other,
                    targets,
                };
                divergence.add(context, pairs)?;
            }
        }
        Ok(divergence.comparison().map_or(0.0, |comparison| comparison.kl.value))
    }
}
