//! What the adapters of a step change of its products and normalisations, in the kernels' terms.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rootstock_kernels::{
    BiasTerm, ColumnFactors, DenseTerm, LowRankBatch, LowRankTerm, NormFormula, NormWeights, RowNorms,
};
use rootstock_model::{Norm, NormKind, NormSite, NormSpec, Site};

use super::adapter::{MapChange, NativeAdapter};
use super::batch::Segment;
use super::dora::Magnitude;

/// Consecutive rows of a product and the segment whose adapters they are on.
pub(super) type SegmentRows<'a> = (Range<usize>, &'a Segment<'a>);

/// Everything that the adapters of `segments` change of a group of maps.
pub(super) fn terms<'a>(
    segments: &[SegmentRows<'a>],
    sites: &[Site],
    memory: LowRankBatch<'static>,
) -> LowRankBatch<'a> {
    let mut batch: LowRankBatch<'a> = memory;
    for (rows, segment) in segments {
        if segment.adapters.iter().any(|(adapter, _)| adapter.has_magnitudes) {
            scale_columns(&mut batch, sites, (rows, segment));
        }
        for &(adapter, factor) in &segment.adapters {
            for (part, &site) in sites.iter().enumerate() {
                if let Some(change) = adapter.map(site) {
                    push(&mut batch, change, factor, (rows, part));
                }
            }
        }
    }
    batch
}

/// What the magnitudes of a segment make of the base's products.
fn scale_columns<'a>(batch: &mut LowRankBatch<'a>, sites: &[Site], (rows, segment): (&Range<usize>, &'a Segment<'a>)) {
    for (part, &site) in sites.iter().enumerate() {
        let magnitude = |&(adapter, factor): &(&'a NativeAdapter, f32)| Some((adapter.map(site)?.magnitude()?, factor));
        if let Some(factors) = column_factors(segment.adapters.iter().filter_map(magnitude)) {
            let rows = rows.clone();
            batch.scale_columns(ColumnFactors { rows, part, factors });
        }
    }
}

/// Adds what one adapter changes of one map under a request's factor.
fn push<'a>(batch: &mut LowRankBatch<'a>, change: &'a MapChange, factor: f32, (rows, part): (&Range<usize>, usize)) {
    if let Some(scaled) = &change.pair {
        batch.push(LowRankTerm {
            rows: rows.clone(),
            part,
            pair: &scaled.pair,
            scale: scaled.scale * factor,
            columns: change.magnitude().map(|magnitude| magnitude.factors(factor)),
        });
    }
    let Some(beyond) = &change.beyond else {
        return;
    };
    if let Some(matrix) = &beyond.dense {
        let (rows, scale) = (rows.clone(), factor);
        batch.dense(DenseTerm {
            rows,
            part,
            matrix,
            scale,
        });
    }
    if let Some(shift) = &beyond.shift {
        let values = match factor {
            1.0 => Cow::Borrowed(&shift[..]),
            factor => shift.iter().map(|value| value * factor).collect(),
        };
        let rows = rows.clone();
        batch.shift(BiasTerm { rows, part, values });
    }
}

/// What the magnitudes of a segment's adapters, each under its factor, make of the base's product: with several, each adds
/// its own difference from 1, as active adapters do in peft.
pub(super) fn column_factors<'a>(mut all: impl Iterator<Item = (&'a Magnitude, f32)>) -> Option<Arc<[f32]>> {
    let (first, factor) = all.next()?;
    let mut total = first.factors(factor);
    for (magnitude, factor) in all {
        let more = magnitude.factors(factor);
        total = total
            .iter()
            .zip(more.iter())
            .map(|(total, more)| total + (more - 1.0))
            .collect();
    }
    Some(total)
}

/// Weights of rows whose adapters replace a normalisation.
pub(super) struct OwnNorms {
    rows: Vec<(Range<usize>, Norm)>,
}

impl OwnNorms {
    pub fn of(segments: &[SegmentRows<'_>], site: NormSite, base: &Norm) -> Self {
        let own = segments
            .iter()
            .filter_map(|(rows, segment)| Some((rows.clone(), changed(segment, site, base)?)));
        Self { rows: own.collect() }
    }

    /// In the kernels' terms.
    pub fn weights(&self) -> Vec<(Range<usize>, NormWeights<'_>)> {
        self.rows
            .iter()
            .map(|(rows, norm)| (rows.clone(), weights(norm)))
            .collect()
    }
}

/// The normalisation of a segment's rows: the base's plus each adapter's difference times its factor.
fn changed(segment: &Segment<'_>, site: NormSite, base: &Norm) -> Option<Norm> {
    let mut own: Option<Norm> = None;
    for (adapter, factor) in &segment.adapters {
        let Some(change) = adapter.norm(site) else {
            continue;
        };
        let norm = own.get_or_insert_with(|| base.clone());
        let add =
            |to: &mut [f32], delta: &[f32]| to.iter_mut().zip(delta).for_each(|(to, delta)| *to += factor * delta);
        add(&mut norm.weight, &change.weight);
        add(norm.bias.as_deref_mut().unwrap_or_default(), &change.bias);
    }
    own
}

fn weights(norm: &Norm) -> NormWeights<'_> {
    NormWeights {
        weight: &norm.weight,
        bias: norm.bias.as_deref().unwrap_or_default(),
    }
}

/// A normalisation of rows, some of which have weights of their own.
pub(super) fn row_norms<'a>(
    spec: NormSpec,
    base: &'a Norm,
    own: &'a [(Range<usize>, NormWeights<'a>)],
) -> RowNorms<'a> {
    RowNorms {
        formula: match spec.kind {
            NormKind::Rms => NormFormula::Rms,
            NormKind::Layer => NormFormula::Layer,
        },
        epsilon: spec.epsilon,
        weights: weights(base),
        own,
    }
}
