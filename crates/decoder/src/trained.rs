//! What is trained, by the place in the model where it takes effect.

use std::collections::BTreeMap;
use std::ops::Range;

use rootstock_model::adapter::BottleneckInput;
use rootstock_model::{Activation, BlockSite, NormSite, Site};

use crate::ParameterId;

/// Some rows of a parameter: a module can hold several sites, their outputs one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// The parameter.
    pub id: ParameterId,
    /// The rows (elements of a vector) that are a site's.
    pub rows: Range<usize>,
}

/// A low-rank pair on a map: `y += scale * B A x` (Hu et al., 2021). Where A and B have initial values (PiSSA), only their
/// difference takes effect: `y += scale * (B A x - B0 A0 x)`, which is a pair on the weight less `scale * B0 A0` without such
/// a weight in memory. Dropout is of the first term alone, as it is where that weight exists.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[rank, inputs]`
    pub a: ParameterId,
    /// `[outputs, rank]`
    pub b: Rows,
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
    /// Length of every output's weights, base and pair together (Liu et al., 2024).
    pub magnitude: Option<Rows>,
    /// The weight itself, `[outputs, inputs]`, in place of the frozen one.
    pub weight: Option<Rows>,
    /// The bias, in place of the frozen one.
    pub bias: Option<Rows>,
}

/// Weights of a normalisation that are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormTraining {
    /// Factors.
    pub weight: ParameterId,
    /// What is added, where the normalisation has that.
    pub bias: Option<ParameterId>,
}

/// A bottleneck after a block: `scale * (up activation(down x + down_bias) + up_bias)` is added to the residual stream (Houlsby et al.,
/// 2019; Pfeiffer et al., 2020).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BottleneckTraining {
    /// What x is.
    pub input: BottleneckInput,
    /// Between the maps.
    pub activation: Activation,
    /// Factor on what it gives.
    pub scale: f32,
    /// `[width, hidden]`
    pub down: ParameterId,
    /// `[width]`
    pub down_bias: ParameterId,
    /// `[hidden, width]`
    pub up: ParameterId,
    /// `[hidden]`
    pub up_bias: ParameterId,
}

/// Everything that is trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    /// Maps.
    pub sites: BTreeMap<Site, SiteTraining>,
    /// Normalisations.
    pub norms: BTreeMap<NormSite, NormTraining>,
    /// The table of learned positions, `[positions, hidden]`.
    pub positions: Option<ParameterId>,
    /// Bottlenecks.
    pub bottlenecks: BTreeMap<BlockSite, BottleneckTraining>,
}

impl Trained {
    /// The weight that is trained in place of the frozen one at a site.
    pub fn weight(&self, site: Site) -> Option<&Rows> {
        self.sites.get(&site)?.weight.as_ref()
    }
}
