//! The optimizer: settings, the parameters it knows, and a step of one of them.

use super::moments::{Coefficients, MomentType, Moments};
use super::parameter::Parameter;
use crate::TrainError;

/// What all parameters have in common. The defaults are Hugging Face's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the average of gradients, at least 0 and below 1.
    pub beta1: f64,
    /// Decay of the average of their squares, at least 0 and below 1.
    pub beta2: f64,
    /// Added to the root of the average of squares.
    pub eps: f64,
    /// Share of a parameter that is taken away per step and unit of learning rate.
    pub weight_decay: f64,
    /// What moments are kept in.
    pub moments: MomentType,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            moments: MomentType::F32,
        }
    }
}

impl AdamWSettings {
    fn check(&self) -> Result<(), TrainError> {
        let below_one = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value >= 0.0 && value.is_finite();
        let checks = [
            ("adam_beta1", self.beta1, below_one(self.beta1), "from 0 to below 1"),
            ("adam_beta2", self.beta2, below_one(self.beta2), "from 0 to below 1"),
            ("adam_epsilon", self.eps, positive(self.eps), "of 0 or more"),
            (
                "weight_decay",
                self.weight_decay,
                positive(self.weight_decay),
                "of 0 or more",
            ),
        ];
        match checks.into_iter().find(|(.., fits, _)| !fits) {
            None => Ok(()),
            Some((field, value, _, range)) => Err(TrainError::setting(
                field,
                format!("expected a number {range}, got {value}"),
            )),
        }
    }
}

/// What a step of all parameters has in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The schedule's rate.
    pub learning_rate: f64,
    /// What gradients are multiplied with before they are used, for clipping without a pass of its own
    /// ([`clip_scale`](super::clip_scale)); 1 otherwise.
    pub gradient_scale: f32,
}

impl Step {
    /// A step at this rate with gradients as they are.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            gradient_scale: 1.0,
        }
    }
}

/// AdamW with decoupled weight decay, as torch.optim.AdamW computes it.
#[derive(Debug, Clone)]
pub struct AdamW {
    settings: AdamWSettings,
    pub(super) entries: Vec<Entry>,
}

/// A parameter with its moments.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) parameter: Parameter,
    /// Steps it has had. Each parameter counts its own, as in torch: one without a gradient has none.
    pub(super) steps: u64,
    pub(super) moments: Moments,
}

impl AdamW {
    /// An optimizer for these parameters, which are known by their position from here on.
    ///
    /// # Errors
    /// Settings out of range, or two parameters of one name.
    pub fn new(settings: AdamWSettings, parameters: impl IntoIterator<Item = Parameter>) -> Result<Self, TrainError> {
        settings.check()?;
        let mut names = std::collections::HashSet::new();
        let mut entries = Vec::new();
        for parameter in parameters {
            if !names.insert(parameter.name.clone()) {
                return Err(TrainError::state(
                    &parameter.name,
                    "expected one parameter of this name, got two",
                ));
            }
            entries.push(Entry {
                moments: Moments::new(settings.moments, parameter.elements),
                steps: 0,
                parameter,
            });
        }
        Ok(Self { settings, entries })
    }

    /// The parameters, by position.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.entries.iter().map(|entry| &entry.parameter)
    }

    /// Steps the parameter at `index` by its gradient.
    ///
    /// # Errors
    /// No parameter there, or slices that are not as long as it.
    pub fn update(&mut self, index: usize, values: &mut [f32], gradient: &[f32], step: Step) -> Result<(), TrainError> {
        let known = self.entries.len();
        let Some(entry) = self.entries.get_mut(index) else {
            let reason = format!("expected one of the {known} parameters of the optimizer");
            return Err(TrainError::state(&index.to_string(), reason));
        };
        let expected = entry.parameter.elements;
        if values.len() != expected || gradient.len() != expected {
            let reason = format!(
                "expected {expected} values and as many of its gradient, got {} and {}",
                values.len(),
                gradient.len()
            );
            return Err(TrainError::state(&entry.parameter.name, reason));
        }
        entry.steps += 1;
        let coefficients = coefficients(&self.settings, entry, step);
        entry.moments.update(values, gradient, &coefficients);
        Ok(())
    }
}

/// In f64, and rounded once, as torch does with its scalars.
fn coefficients(settings: &AdamWSettings, entry: &Entry, step: Step) -> Coefficients {
    let rate = step.learning_rate * entry.parameter.rate_ratio;
    let decay = if entry.parameter.decays {
        settings.weight_decay
    } else {
        0.0
    };
    let steps = entry.steps as f64;
    Coefficients {
        gradient_scale: step.gradient_scale,
        keep: (1.0 - rate * decay) as f32,
        into_first: (1.0 - settings.beta1) as f32,
        beta2: settings.beta2 as f32,
        into_second: (1.0 - settings.beta2) as f32,
        second_bias: (1.0 - settings.beta2.powf(steps)).sqrt() as f32,
        eps: settings.eps as f32,
        rate: (rate / (1.0 - settings.beta1.powf(steps))) as f32,
    }
}
