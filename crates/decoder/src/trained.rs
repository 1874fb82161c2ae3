//! What is trained, by the place in the model where it takes effect.

use std::collections::BTreeMap;
use std::ops::Range;

use rootstock_model::{NormSite, Site};

use crate::ParameterId;

/// A low-rank pair on a map: `y += scale * B A x` (Hu et al., 2021).
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[rank, inputs]`
    pub a: ParameterId,
    /// `[outputs of the module, rank]`
    pub b: ParameterId,
    /// The rows of B that are this site's outputs, where a module holds several sites.
    pub outputs: Range<usize>,
    /// Factor on the pair.
    pub scale: f32,
    /// Probability with which an element of the pair's input is dropped.
    pub dropout: f32,
}

/// What is trained at a map.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SiteTraining {
    /// A low-rank pair beside the frozen weight.
    pub pair: Option<LowRank>,
    /// Length of every output's weights, base and pair together (Liu et al., 2024), and the rows of it that are this site's.
    pub magnitude: Option<(ParameterId, Range<usize>)>,
    /// The weight itself, `[outputs, inputs]`, in place of the frozen one.
    pub weight: Option<ParameterId>,
    /// The bias, in place of the frozen one.
    pub bias: Option<ParameterId>,
}

/// Weights of a normalisation that are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormTraining {
    /// Factors.
    pub weight: ParameterId,
    /// What is added, where the normalisation has that.
    pub bias: Option<ParameterId>,
}

/// Everything that is trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    /// Maps.
    pub sites: BTreeMap<Site, SiteTraining>,
    /// Normalisations.
    pub norms: BTreeMap<NormSite, NormTraining>,
}
