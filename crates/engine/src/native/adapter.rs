//! Adapters in the layout of the kernels, by site. What an adapter stores in full is kept as its difference from the base.

mod prepare;

use std::collections::BTreeMap;

use rootstock_kernels::{LowRankPair, PackedMatrix};
use rootstock_model::{BlockSite, ContentHash, NormSite, Projection, Site};

use super::bottleneck::PackedBottleneck;
use super::dora::Magnitude;
use super::embed::EmbeddingChange;
use crate::runner::PreparedAdapter;
pub(super) use prepare::NativePreparer;

/// An adapter, packed.
pub(super) struct NativeAdapter {
    hash: ContentHash,
    bytes: usize,
    /// Indexed by [`index`].
    maps: Vec<Option<MapChange>>,
    pub embedding: Option<EmbeddingChange>,
    norms: Vec<(NormSite, NormChange)>,
    bottlenecks: BTreeMap<BlockSite, PackedBottleneck>,
    /// Whether any map has a magnitude.
    pub has_magnitudes: bool,
}

/// What an adapter changes of one linear map. Every step looks at the changes of all its adapters, none of which is in a
/// cache by then: what most adapters do not have is one pointer beside the pair.
#[derive(Default)]
pub(super) struct MapChange {
    pub pair: Option<ScaledPair>,
    pub beyond: Option<Box<BeyondPair>>,
}

/// What an adapter may change of a linear map beside its pair.
#[derive(Default)]
pub(super) struct BeyondPair {
    pub magnitude: Option<Magnitude>,
    /// Added to the outputs under a factor of 1.
    pub shift: Option<Vec<f32>>,
    /// Difference of the adapter's matrix from the base's.
    pub dense: Option<PackedMatrix>,
}

/// A pair and the adapter's own factor on it.
pub(super) struct ScaledPair {
    pub pair: LowRankPair,
    pub scale: f32,
}

/// Difference of an adapter's normalisation from the base's.
pub(super) struct NormChange {
    pub weight: Vec<f32>,
    /// Empty for none.
    pub bias: Vec<f32>,
}

/// Place of a map among all of a model of `layers` layers; `None` for the embedding, which is no product.
fn index(site: Site, layers: usize) -> Option<usize> {
    match site {
        Site::Embedding => None,
        Site::Layer { layer, projection } => {
            (layer < layers).then_some(layer * Projection::ALL.len() + projection as usize)
        }
        Site::Output => Some(layers * Projection::ALL.len()),
    }
}

impl NativeAdapter {
    /// What the adapter changes of a map, if anything.
    pub fn map(&self, site: Site) -> Option<&MapChange> {
        let layers = self.maps.len() / Projection::ALL.len();
        self.maps.get(index(site, layers)?)?.as_ref()
    }

    /// What the adapter changes of a normalisation, if anything.
    pub fn norm(&self, site: NormSite) -> Option<&NormChange> {
        self.norms
            .iter()
            .find(|(known, _)| *known == site)
            .map(|(_, change)| change)
    }

    /// The adapter's bottleneck after a block, if it has one.
    pub fn bottleneck(&self, site: BlockSite) -> Option<&PackedBottleneck> {
        self.bottlenecks.get(&site)
    }

    /// Whether it has an effect under the factor `scale`: a magnitude has one even under 0, which makes the norms of the
    /// base's rows those that the adapter learned.
    pub fn is_active(&self, scale: f32) -> bool {
        let embedding = self.embedding.as_ref().is_some_and(|change| change.magnitude.is_some());
        scale != 0.0 || self.has_magnitudes || embedding
    }
}

impl MapChange {
    /// The magnitude on the map, if there is one.
    pub fn magnitude(&self) -> Option<&Magnitude> {
        self.beyond.as_ref()?.magnitude.as_ref()
    }

    fn bytes(&self) -> usize {
        let pair = self.pair.as_ref().map_or(0, |scaled| scaled.pair.bytes());
        pair + self.beyond.as_ref().map_or(0, |beyond| beyond.bytes())
    }
}

impl BeyondPair {
    fn bytes(&self) -> usize {
        let magnitude = self.magnitude.as_ref().map_or(0, Magnitude::bytes);
        let dense = self.dense.as_ref().map_or(0, PackedMatrix::bytes);
        size_of::<Self>() + magnitude + dense + self.shift.as_ref().map_or(0, |shift| size_of_val(&shift[..]))
    }
}

impl PreparedAdapter for NativeAdapter {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn content_hash(&self) -> ContentHash {
        self.hash
    }

    fn adds_up(&self) -> bool {
        self.bottlenecks.is_empty()
    }
}
