//! Learning-rate schedules: the rate of every step from a name, its options and the length of the run. Names, options and curves
//! are those of Hugging Face's `lr_scheduler_type` and `lr_scheduler_kwargs`; nothing here knows an optimizer.

use std::f64::consts::PI;

use crate::TrainError;

mod kind;
#[cfg(test)]
mod tests;

pub use kind::{DecayType, ScheduleKind, ScheduleOptions};

/// How long the rate climbs from 0 to its peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// This many steps.
    Steps(u64),
    /// This share of all steps, from 0 to 1, rounded up.
    Ratio(f64),
}

impl Warmup {
    fn steps(self, total: u64) -> Result<u64, TrainError> {
        match self {
            Self::Steps(steps) => Ok(steps),
            Self::Ratio(ratio) if (0.0..=1.0).contains(&ratio) => Ok((total as f64 * ratio).ceil() as u64),
            Self::Ratio(ratio) => Err(TrainError::setting(
                "warmup_ratio",
                format!("expected a share from 0 to 1, got {ratio}"),
            )),
        }
    }
}

/// The learning rate of every step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    total: u64,
    /// Share of the peak at which a warm-up begins; 0 but for WSD.
    start: f64,
    curve: Curve,
}

/// What follows the warm-up, with its options resolved. Floors are shares of the peak.
#[derive(Debug, Clone, PartialEq)]
enum Curve {
    Flat,
    Line,
    Cosine {
        cycles: f64,
        floor: f64,
    },
    Restarts {
        cycles: f64,
    },
    Power {
        power: f64,
        end: f64,
    },
    InverseSqrt {
        timescale: f64,
    },
    StableDecay {
        decay: u64,
        kind: DecayType,
        cycles: f64,
        floor: f64,
    },
}

impl Schedule {
    /// The schedule of a run of `total` optimizer steps whose highest rate is `learning_rate`.
    ///
    /// # Errors
    /// An option that the kind does not take, a rate or an option that is not a number of 0 or more, an end above the peak, or
    /// phases that are longer than the run.
    pub fn new(
        kind: ScheduleKind,
        options: &ScheduleOptions,
        learning_rate: f64,
        warmup: Warmup,
        total: u64,
    ) -> Result<Self, TrainError> {
        if !learning_rate.is_finite() || learning_rate < 0.0 {
            let reason = format!("expected a number that is not negative, got {learning_rate}");
            return Err(TrainError::setting("learning_rate", reason));
        }
        options.check(kind)?;
        let warmup = match kind {
            ScheduleKind::Constant => 0,
            _ => warmup.steps(total)?,
        };
        let curve = Curve::new(kind, options, learning_rate, warmup, total)?;
        let start = match curve {
            Curve::StableDecay { floor, .. } => floor,
            _ => 0.0,
        };
        Ok(Self {
            peak: learning_rate,
            warmup,
            total,
            start,
            curve,
        })
    }

    /// Learning rate of the optimizer step `step`, which counts from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    /// Share of the highest rate at `step`.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            let climbed = step as f64 / self.warmup as f64;
            return climbed * (1.0 - self.start) + self.start;
        }
        self.curve.factor(step, self.warmup, self.total)
    }

    /// Steps of the warm-up.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup
    }
}

impl Curve {
    fn new(
        kind: ScheduleKind,
        options: &ScheduleOptions,
        peak: f64,
        warmup: u64,
        total: u64,
    ) -> Result<Self, TrainError> {
        Ok(match kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => Self::Flat,
            ScheduleKind::Linear => Self::Line,
            ScheduleKind::Cosine => Self::Cosine {
                cycles: options.num_cycles.unwrap_or(0.5),
                floor: 0.0,
            },
            ScheduleKind::CosineWithMinLr => Self::Cosine {
                cycles: options.num_cycles.unwrap_or(0.5),
                floor: lowest(options, peak)?,
            },
            ScheduleKind::CosineWithRestarts => Self::Restarts {
                cycles: options.num_cycles.unwrap_or(1.0),
            },
            ScheduleKind::Polynomial => Self::Power {
                power: options.power.unwrap_or(1.0),
                end: share("lr_end", options.lr_end.unwrap_or(1e-7), peak)?,
            },
            ScheduleKind::InverseSqrt => Self::InverseSqrt {
                timescale: options.timescale.filter(|&steps| steps > 0).unwrap_or(match warmup {
                    0 => 10_000,
                    steps => steps,
                }) as f64,
            },
            ScheduleKind::WarmupStableDecay => stable_decay(options, warmup, total)?,
        })
    }

    fn factor(&self, step: u64, warmup: u64, total: u64) -> f64 {
        let progress = || (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        match *self {
            Self::Flat => 1.0,
            Self::Line => total.saturating_sub(step) as f64 / total.saturating_sub(warmup).max(1) as f64,
            Self::Cosine { cycles, floor } => cosine(cycles, floor, progress()),
            Self::Restarts { .. } if progress() >= 1.0 => 0.0,
            Self::Restarts { cycles } => (0.5 * (1.0 + (PI * ((cycles * progress()) % 1.0)).cos())).max(0.0),
            Self::Power { end, .. } if step >= total => end,
            Self::Power { power, end } => (1.0 - end) * (1.0 - progress()).powf(power) + end,
            Self::InverseSqrt { timescale } => 1.0 / (((step - warmup) as f64 + timescale) / timescale).sqrt(),
            Self::StableDecay { floor, .. } if step >= total => floor,
            Self::StableDecay { decay, .. } if step < total - decay => 1.0,
            Self::StableDecay {
                decay,
                kind,
                cycles,
                floor,
            } => {
                let progress = (step - (total - decay)) as f64 / decay as f64;
                match kind {
                    DecayType::Cosine => cosine(cycles, floor, progress),
                    DecayType::Linear => (1.0 - progress) * (1.0 - floor) + floor,
                    DecayType::OneMinusSqrt => (1.0 - progress.sqrt()) * (1.0 - floor) + floor,
                }
            }
        }
    }
}

fn cosine(cycles: f64, floor: f64, progress: f64) -> f64 {
    let factor = 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
    (factor * (1.0 - floor) + floor).max(0.0)
}

/// The lowest rate of [`ScheduleKind::CosineWithMinLr`], as a share of the peak.
fn lowest(options: &ScheduleOptions, peak: f64) -> Result<f64, TrainError> {
    match (options.min_lr, options.min_lr_rate) {
        (Some(rate), None) => share("min_lr", rate, peak),
        (None, Some(ratio)) if ratio <= 1.0 => Ok(ratio),
        (min_lr, ratio) => Err(TrainError::setting(
            "lr_scheduler_kwargs",
            format!(
                "cosine_with_min_lr takes either min_lr or min_lr_rate (from 0 to 1), got {min_lr:?} and {ratio:?}"
            ),
        )),
    }
}

fn share(name: &str, rate: f64, peak: f64) -> Result<f64, TrainError> {
    match rate < peak {
        true => Ok(rate / peak),
        false => Err(TrainError::setting(
            format!("lr_scheduler_kwargs.{name}"),
            format!("expected a rate below the learning rate, {peak}, got {rate}"),
        )),
    }
}

fn stable_decay(options: &ScheduleOptions, warmup: u64, total: u64) -> Result<Curve, TrainError> {
    let decay = options.num_decay_steps.unwrap_or(total.div_ceil(10));
    if warmup.saturating_add(decay) > total {
        return Err(TrainError::setting(
            "lr_scheduler_kwargs.num_decay_steps",
            format!("{warmup} steps of warm-up and {decay} of decay are more than the run's {total}"),
        ));
    }
    let floor = options.min_lr_ratio.unwrap_or(0.0);
    if floor > 1.0 {
        return Err(TrainError::setting(
            "lr_scheduler_kwargs.min_lr_ratio",
            format!("expected a share from 0 to 1, got {floor}"),
        ));
    }
    Ok(Curve::StableDecay {
        decay,
        kind: options.decay_type.unwrap_or_default(),
        cycles: options.num_cycles.unwrap_or(0.5),
        floor,
    })
}
