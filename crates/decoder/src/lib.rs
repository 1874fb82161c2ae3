//! The differentiable decoder: forward and backward of an [`ArchSpec`](rootstock_model::ArchSpec) over a frozen model and what
//! is trained on it. Knows no data set, no optimizer and no file.
//!
//! A step reads a [`Batch`] and gives losses; gradients are added to those of [`Parameters`]. The walk through the layers is
//! written once, over the operations of [`Graph`]; [`tape`] computes them on our own kernels and goes back. What training asks
//! of this and of other ways of computing is [`Backend`].

mod backend;
mod batch;
mod error;
mod footprint;
mod frozen;
mod graph;
mod parameters;
mod step;
pub mod tape;
mod trained;

pub use backend::{Backend, Precision};
pub use batch::{Batch, Target};
pub use error::DecoderError;
pub use footprint::{Footprint, StepShapes};
pub use frozen::FrozenModel;
pub use graph::{Graph, layer};
pub use parameters::{Parameter, ParameterId, ParameterKind, Parameters};
pub use step::{Engine, Learn, StepSettings, Subject, logits_rows};
pub use trained::{BottleneckTraining, LowRank, NormTraining, Rows, SiteTraining, Trained};
