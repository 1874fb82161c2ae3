//! The names of the schedules and what each takes: Hugging Face's `lr_scheduler_type` and `lr_scheduler_kwargs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// A curve by its name in `lr_scheduler_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Down to 0 in a line.
    #[default]
    Linear,
    /// Down to 0 along half a cosine; `num_cycles` (0.5) counts whole ones.
    Cosine,
    /// Half cosines from the peak to 0, `num_cycles` (1) times.
    CosineWithRestarts,
    /// A cosine down to `min_lr`, or to `min_lr_rate` of the peak.
    CosineWithMinLr,
    /// Down to `lr_end` (1e-7) as the power `power` (1) of what remains.
    Polynomial,
    /// The same rate at every step; there is no warm-up.
    Constant,
    /// The same rate after the warm-up.
    ConstantWithWarmup,
    /// One over the root of the step, in units of `timescale` (the warm-up, or 10,000).
    InverseSqrt,
    /// The peak until the last `num_decay_steps` (a tenth of the run), then down to `min_lr_ratio` (0) of it (WSD).
    WarmupStableDecay,
}

/// Every kind, its name, and the options that it takes.
pub(super) const KINDS: [(ScheduleKind, &str, &[&str]); 9] = [
    (ScheduleKind::Linear, "linear", &[]),
    (ScheduleKind::Cosine, "cosine", &["num_cycles"]),
    (
        ScheduleKind::CosineWithRestarts,
        "cosine_with_restarts",
        &["num_cycles"],
    ),
    (
        ScheduleKind::CosineWithMinLr,
        "cosine_with_min_lr",
        &["num_cycles", "min_lr", "min_lr_rate"],
    ),
    (ScheduleKind::Polynomial, "polynomial", &["power", "lr_end"]),
    (ScheduleKind::Constant, "constant", &[]),
    (ScheduleKind::ConstantWithWarmup, "constant_with_warmup", &[]),
    (ScheduleKind::InverseSqrt, "inverse_sqrt", &["timescale"]),
    (
        ScheduleKind::WarmupStableDecay,
        "warmup_stable_decay",
        &["num_decay_steps", "decay_type", "min_lr_ratio", "num_cycles"],
    ),
];

impl ScheduleKind {
    fn row(self) -> (&'static str, &'static [&'static str]) {
        let row = KINDS.iter().find(|(kind, ..)| *kind == self);
        row.map_or(("", &[]), |(_, name, options)| (name, options))
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().0)
    }
}

impl FromStr for ScheduleKind {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let found = KINDS.iter().find(|(_, name, _)| *name == text);
        found.map(|(kind, ..)| *kind).ok_or_else(|| {
            let names = KINDS.map(|(_, name, _)| name).join(", ");
            TrainError::setting("lr_scheduler_type", format!("expected one of {names}, got {text:?}"))
        })
    }
}

/// How the last part of [`ScheduleKind::WarmupStableDecay`] goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DecayType {
    /// In a line.
    #[serde(rename = "linear")]
    Linear,
    /// Along a cosine.
    #[default]
    #[serde(rename = "cosine")]
    Cosine,
    /// As one minus the root of what is done.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// `lr_scheduler_kwargs`: what a kind takes beyond the length of the run. What is not given has the default of
/// [`ScheduleKind`]'s descriptions; what the kind does not take is refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each is described at the kind that takes it")]
pub struct ScheduleOptions {
    pub num_cycles: Option<f64>,
    pub power: Option<f64>,
    pub lr_end: Option<f64>,
    pub min_lr: Option<f64>,
    pub min_lr_rate: Option<f64>,
    pub timescale: Option<u64>,
    pub num_decay_steps: Option<u64>,
    pub decay_type: Option<DecayType>,
    pub min_lr_ratio: Option<f64>,
}

impl ScheduleOptions {
    /// The first option that was given and that the kind does not take, or that is no number.
    pub(super) fn check(&self, kind: ScheduleKind) -> Result<(), TrainError> {
        let given = [
            ("num_cycles", self.num_cycles),
            ("power", self.power),
            ("lr_end", self.lr_end),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("min_lr_ratio", self.min_lr_ratio),
            ("timescale", self.timescale.map(|steps| steps as f64)),
            ("num_decay_steps", self.num_decay_steps.map(|steps| steps as f64)),
            ("decay_type", self.decay_type.map(|_| 0.0)),
        ];
        let (_, takes) = kind.row();
        for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            let field = format!("lr_scheduler_kwargs.{name}");
            if !takes.contains(&name) {
                return Err(TrainError::setting(
                    field,
                    format!("{kind} takes {}", list_or_nothing(takes)),
                ));
            }
            if !value.is_finite() || value < 0.0 {
                return Err(TrainError::setting(
                    field,
                    format!("expected a number that is not negative, got {value}"),
                ));
            }
        }
        Ok(())
    }
}

fn list_or_nothing(names: &[&str]) -> String {
    match names.is_empty() {
        true => "no options".to_owned(),
        false => names.join(", "),
    }
}
