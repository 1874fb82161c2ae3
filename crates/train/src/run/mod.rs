//! A training run: rows of samples in, trained parameters out ([`Trainer`]). What a step computes depends on the settings, the
//! rows and the step's number alone, so a run that is killed and goes on from its last checkpoint ([`checkpoint`]) ends with the
//! same bits as one that was not. What it will take is known before ([`Plan`]).

pub mod checkpoint;
mod order;
mod plan;
mod scaling;
mod settings;
mod shortage;
mod trainer;

pub use order::Order;
pub use plan::{DiskPlan, Plan};
pub use settings::RunSettings;
pub use shortage::MemoryPlan;
pub use trainer::{Ending, Observer, StepReport, Trainer};

use crate::dataset::Sample;

/// Samples that are side by side in a batch; each attends to itself alone.
pub type Row = Vec<Sample>;
