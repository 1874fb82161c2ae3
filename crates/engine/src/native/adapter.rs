//! Adapters in the layout of the kernels, by site.

use std::sync::Arc;

use rootstock_formats::DType;
use rootstock_kernels::{ElementType, LowRankPair};
use rootstock_model::adapter::{Adapter, AdapterError, AdapterErrorCode, AdapterTensor, Effect, LowRank};
use rootstock_model::{ArchSpec, ContentHash, Projection, Site};

use crate::runner::{AdapterPreparer, PreparedAdapter};

/// An adapter's low-rank pairs, packed.
pub(super) struct NativeAdapter {
    hash: ContentHash,
    bytes: usize,
    /// Indexed by [`index`].
    pairs: Vec<Option<ScaledPair>>,
}

/// A pair and the adapter's own factor on it.
pub(super) struct ScaledPair {
    pub pair: LowRankPair,
    pub scale: f32,
}

/// Place of a site among all sites of a model.
fn index(site: Site) -> usize {
    site.layer * Projection::ALL.len() + site.projection as usize
}

impl NativeAdapter {
    /// The pair on a site, if the adapter changes it.
    pub fn pair(&self, layer: usize, projection: Projection) -> Option<&ScaledPair> {
        self.pairs.get(index(Site { layer, projection }))?.as_ref()
    }
}

impl PreparedAdapter for NativeAdapter {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn content_hash(&self) -> ContentHash {
        self.hash
    }
}

/// Packs adapters for the native runner.
pub(super) struct NativePreparer {
    spec: ArchSpec,
}

impl NativePreparer {
    pub fn new(spec: ArchSpec) -> Self {
        Self { spec }
    }

    fn pack(&self, low_rank: &LowRank) -> Result<LowRankPair, AdapterError> {
        let misfit =
            |detail: String| AdapterError::new(AdapterErrorCode::ShapeMismatch, format!("{}: {detail}", low_rank.site));
        let shape = self
            .spec
            .shape(low_rank.site)
            .ok_or_else(|| misfit("the base has no such layer".into()))?;
        let rank = low_rank.a.rows;
        if (low_rank.a.cols, low_rank.b.rows) != shape || low_rank.b.cols != rank {
            return Err(misfit(format!(
                "expected A [r, {}] and B [{}, r], got [{rank}, {}] and [{}, {}]",
                shape.0, shape.1, low_rank.a.cols, low_rank.b.rows, low_rank.b.cols
            )));
        }
        LowRankPair::pack(typed(&low_rank.a)?, typed(&low_rank.b)?, rank, shape)
            .map_err(|error| misfit(error.to_string()))
    }
}

fn typed(tensor: &AdapterTensor) -> Result<(ElementType, &[u8]), AdapterError> {
    let element = match tensor.dtype {
        DType::F32 => ElementType::F32,
        DType::F16 => ElementType::F16,
        DType::BF16 => ElementType::Bf16,
        other => {
            let message = format!("adapter tensors of type {other:?} cannot be applied (supported: F32, F16, BF16)");
            return Err(AdapterError::new(AdapterErrorCode::Malformed, message));
        }
    };
    Ok((element, &tensor.bytes))
}

impl AdapterPreparer for NativePreparer {
    fn prepare(&self, adapter: &Adapter) -> Result<Arc<dyn PreparedAdapter>, AdapterError> {
        let mut pairs: Vec<Option<ScaledPair>> = Vec::new();
        pairs.resize_with(self.spec.layers.len() * Projection::ALL.len(), || None);
        let mut bytes = size_of::<NativeAdapter>() + pairs.len() * size_of::<Option<ScaledPair>>();
        for effect in &adapter.effects {
            let Effect::LowRank(low_rank) = effect;
            let pair = self.pack(low_rank)?;
            bytes += pair.bytes();
            pairs[index(low_rank.site)] = Some(ScaledPair {
                pair,
                scale: low_rank.scale,
            });
        }
        Ok(Arc::new(NativeAdapter {
            hash: adapter.hash,
            bytes,
            pairs,
        }))
    }
}
