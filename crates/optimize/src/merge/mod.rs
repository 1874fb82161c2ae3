//! Adapters in the weights of their base: a [`WeightSource`] that gives each tensor with what the adapters add to it. Works in
//! f32, tensor by tensor: what stands in memory is a tensor and, for every adapter, what it adds to it.

mod blend;
mod delta;
#[cfg(test)]
mod tests;
mod tied;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blend::Delta;
pub use blend::{Blend, Dropping};
use rootstock_kernels::{Context, Isa, ThreadPool};
use rootstock_model::adapter::{Adapter, Effect};
use rootstock_model::checkpoint::Role;
use rootstock_model::{Additions, Checkpoint, ModelError, Site, WeightSource};

use crate::OptimizeError;

/// An adapter that becomes part of the weights.
#[derive(Debug)]
pub struct Part {
    /// What messages call it.
    pub name: String,
    /// Loaded against the base that it is merged into.
    pub adapter: Adapter,
    /// Factor on what it adds.
    pub weight: f32,
}

/// How much of a tensor is the adapters'.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The tensor by its place in the architecture.
    pub tensor: String,
    /// Frobenius norm of what is added.
    pub delta: f64,
    /// Frobenius norm of the base's own.
    pub base: f64,
}

impl Change {
    /// The one over the other; `None` where the base has zeros.
    pub fn relative(&self) -> Option<f64> {
        (self.base > 0.0).then(|| self.delta / self.base)
    }
}

/// A base with adapters in its weights.
pub struct Merged<'a> {
    base: &'a Checkpoint,
    parts: Vec<Part>,
    blend: Blend,
    additions: Additions,
    state: Mutex<State>,
}

/// What is used and noted while weights are given.
struct State {
    context: Context,
    changes: Vec<Change>,
    /// The matrix that rows were last asked of.
    recent: Option<(Role, Vec<f32>)>,
}

impl<'a> Merged<'a> {
    /// Puts adapters into the weights of a base.
    ///
    /// # Errors
    /// An adapter that no weights can hold (bottlenecks are not linear, a bias of the output layer has no place), a weight or
    /// density that is none, or no threads.
    pub fn new(base: &'a Checkpoint, parts: Vec<Part>, blend: Blend, threads: usize) -> Result<Self, OptimizeError> {
        blend.check()?;
        let mut additions = Additions::default();
        for part in &parts {
            if !part.weight.is_finite() {
                let reason = format!("{}: expected a finite weight, got {}", part.name, part.weight);
                return Err(OptimizeError::Setting {
                    field: "--adapter".to_owned(),
                    reason,
                });
            }
            part.adapter
                .effects
                .iter()
                .try_for_each(|effect| fits(&part.name, effect))?;
            additions.output |= base.spec().tied_output && !tied::stays_tied(&part.adapter);
            additions.biases = new_biases(base, &part.adapter, additions);
        }
        let unusable = |reason: String| OptimizeError::Setting {
            field: "--threads".to_owned(),
            reason,
        };
        let context = Context {
            pool: ThreadPool::new(threads).map_err(|error| unusable(error.to_string()))?,
            isa: Isa::detect().map_err(|error| unusable(error.to_string()))?,
        };
        Ok(Self {
            base,
            parts,
            blend,
            additions,
            state: Mutex::new(State {
                context,
                changes: Vec::new(),
                recent: None,
            }),
        })
    }

    /// What the merged model has beside the tensors of its base: an output projection of its own where an adapter changes only
    /// one end of a tie, biases where an adapter brings some.
    pub fn additions(&self) -> Additions {
        self.additions
    }

    /// The tensors that were given so far and are not the base's.
    pub fn into_changes(self) -> Vec<Change> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).changes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_base(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        match role {
            Role::Output if self.base.spec().tied_output => self.base.append(Role::Embedding, to),
            Role::Bias { layer, projection } if self.base.bias(layer, projection).is_none() => {
                let spec = self.base.spec();
                let (_, outputs) = spec.layers[layer].shape(projection, spec.hidden_size);
                to.resize(to.len() + outputs, 0.0);
                Ok(())
            }
            role => self.base.append(role, to),
        }
    }

    /// What each adapter adds to a tensor; nothing of those that leave it as it is.
    fn deltas(&self, context: &mut Context, role: Role, base: &[f32]) -> Result<Vec<Delta>, ModelError> {
        let mut deltas = Vec::new();
        for part in &self.parts {
            let (factor, weight) = self.blend.split(part.weight);
            let values = delta::delta(context, &part.adapter, role, base, factor);
            let values = values.map_err(|reason| ModelError::Unsupported {
                path: PathBuf::from(&part.name),
                reason: format!("{}: {reason}", named(role)),
            })?;
            deltas.extend(values.map(|values| Delta {
                values,
                weight,
                stream: blend::stream(part.adapter.hash, &named(role)),
            }));
        }
        Ok(deltas)
    }
}

impl Merged<'_> {
    /// The tensor of a role, noted if it is not the base's.
    fn append_merged(&self, state: &mut State, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let start = to.len();
        self.append_base(role, to)?;
        let values = &mut to[start..];
        let deltas = self.deltas(&mut state.context, role, values)?;
        if deltas.is_empty() {
            return Ok(());
        }
        let delta = self.blend.combine(deltas);
        let tensor = named(role);
        // A matrix may be asked for again.
        if state.changes.iter().all(|change| change.tensor != tensor) {
            state.changes.push(Change {
                tensor,
                delta: norm(&delta),
                base: norm(values),
            });
        }
        values.iter_mut().zip(&delta).for_each(|(value, delta)| *value += delta);
        Ok(())
    }
}

impl WeightSource for Merged<'_> {
    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        self.append_merged(&mut self.state(), role, to)
    }

    fn append_rows(&self, role: Role, wanted: Range<usize>, rows: usize, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut state = self.state();
        let values = match state.recent.take() {
            Some((recent, values)) if recent == role => values,
            _ => {
                let mut values = Vec::new();
                self.append_merged(&mut state, role, &mut values)?;
                values
            }
        };
        let width = values.len() / rows.max(1);
        to.extend_from_slice(&values[wanted.start * width..wanted.end * width]);
        state.recent = Some((role, values));
        Ok(())
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// A tensor's place, for people.
fn named(role: Role) -> String {
    match role {
        Role::Embedding => Site::Embedding.to_string(),
        Role::Positions => "positions".to_owned(),
        Role::Output => Site::Output.to_string(),
        Role::Weight { layer, projection } => Site::Layer { layer, projection }.to_string(),
        Role::Bias { layer, projection } => format!("{} bias", Site::Layer { layer, projection }),
        Role::Norm(site) => format!("normalisation {site:?}"),
        Role::NormBias(site) => format!("normalisation {site:?} bias"),
    }
}

/// Whether an effect can be in the weights.
fn fits(name: &str, effect: &Effect) -> Result<(), OptimizeError> {
    let (place, reason) = match effect {
        Effect::Bottleneck(bottleneck) => {
            let reason = "a bottleneck is not linear, so that no weights of the base can hold it; serve the adapter beside its base";
            (bottleneck.site.to_string(), reason)
        }
        Effect::Bias(bias) if !matches!(bias.site, Site::Layer { .. }) => {
            let reason = "no architecture here has a bias there; serve the adapter beside its base";
            (format!("{} bias", bias.site), reason)
        }
        _ => return Ok(()),
    };
    Err(OptimizeError::Tensor {
        tensor: format!("{name}: {place}"),
        reason: reason.to_owned(),
    })
}

/// The maps that get a bias, those of `known` included.
fn new_biases(base: &Checkpoint, adapter: &Adapter, known: Additions) -> rootstock_model::ProjectionSet {
    let mut biases = known.biases;
    for effect in &adapter.effects {
        if let Effect::Bias(bias) = effect
            && let Site::Layer { layer, projection } = bias.site
            && base.bias(layer, projection).is_none()
        {
            biases = biases.with(projection);
        }
    }
    biases
}
