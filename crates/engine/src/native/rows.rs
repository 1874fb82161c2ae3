//! The products of a group of maps for some rows of a step, adapters included.

use std::ops::Range;

use rootstock_kernels::{
    Activations, Context, LowRankBatch, Part, Precision, Source, Then, add_normed, linear, prepare, share,
};
use rootstock_model::{Norm, NormSite, Site};

use super::changes::{OwnNorms, SegmentRows, row_norms, terms};
use super::weights::PackedModel;

/// Products take a step's rows so many at a time per thread, each part from a group's input to its output: what lies between, the
/// widest rows of a layer, then stays in the second-level caches.
const ROWS_IN_CACHE: usize = 128;

/// Consecutive rows of a step.
pub(super) struct Chunk<'a> {
    pub rows: Range<usize>,
    /// Their segments, in terms of places among them.
    segments: Vec<SegmentRows<'a>>,
}

impl<'a> Chunk<'a> {
    /// Their segments, in terms of places among them.
    pub fn segments(&self) -> &[SegmentRows<'a>] {
        &self.segments
    }

    /// Their elements in rows of `width`.
    pub fn of(&self, width: usize) -> Range<usize> {
        self.rows.start * width..self.rows.end * width
    }
}

/// All rows in nearly equal chunks of at most [`ROWS_IN_CACHE`] a thread.
pub(super) fn chunks<'a>(segments: &[SegmentRows<'a>], rows: usize, threads: usize) -> Vec<Chunk<'a>> {
    let count = rows.div_ceil(ROWS_IN_CACHE * threads);
    let chunk = |index: usize| {
        let rows = share(rows, index, count);
        let part = |(of, segment): &SegmentRows<'a>| {
            let (start, end) = (of.start.max(rows.start), of.end.min(rows.end));
            (start < end).then(|| (start - rows.start..end - rows.start, *segment))
        };
        let segments = segments.iter().filter_map(part).collect();
        Chunk { rows, segments }
    };
    (0..count).map(chunk).collect()
}

/// Memory of a group of products.
pub(super) struct Products {
    /// Their input.
    activations: Activations,
    /// Memory of [`LowRankBatch`] between its uses.
    deltas: LowRankBatch<'static>,
}

impl Products {
    pub fn new(precision: Precision) -> Self {
        Self {
            activations: Activations::new(precision),
            deltas: LowRankBatch::default(),
        }
    }
}

/// Rows that go through products together.
pub(super) struct Rows<'a> {
    pub context: &'a mut Context,
    pub model: &'a PackedModel,
    pub segments: &'a [SegmentRows<'a>],
    pub count: usize,
    /// Those from here on are of prompts and take coarse groups (see [`Source::coarse_from`]).
    pub coarse_from: usize,
}

/// A group of maps on one input.
pub(super) struct Group<'a> {
    pub source: Source<'a>,
    /// Normalisation of the input on the way.
    pub norm: Option<(NormSite, &'a Norm)>,
    pub sites: &'a [Site],
    pub parts: &'a [Part<'a>],
    pub then: Then,
}

impl Rows<'_> {
    /// Some of them.
    pub fn part<'b>(&'b mut self, chunk: &'b Chunk<'_>) -> Rows<'b> {
        Rows {
            context: &mut *self.context,
            model: self.model,
            segments: &chunk.segments,
            count: chunk.rows.len(),
            coarse_from: self.coarse_from.saturating_sub(chunk.rows.start),
        }
    }

    /// The products of a group, adapters included, into rows of `stride` elements.
    pub fn map(&mut self, group: Group<'_>, memory: &mut Products, (out, stride): (&mut [f32], usize)) {
        let own = group.norm.map(|(site, base)| OwnNorms::of(self.segments, site, base));
        let own = own.as_ref().map(OwnNorms::weights).unwrap_or_default();
        let source = Source {
            norm: group.norm.map(|(_, base)| row_norms(self.model.spec.norm, base, &own)),
            coarse_from: self.coarse_from,
            keep: group.parts.iter().any(|part| part.matrix.takes_floats()),
            ..group.source
        };
        let mut deltas = terms(self.segments, group.sites, std::mem::take(&mut memory.deltas));
        prepare(self.context, source, self.count, &mut memory.activations, &mut deltas);
        linear(
            self.context,
            &memory.activations,
            group.parts,
            &deltas,
            group.then,
            (out, stride),
        );
        memory.deltas = deltas.reuse();
    }

    /// As [`Self::map`] for one map into the residual stream, normalised first where `post` says so.
    pub fn join(
        &mut self,
        group: Group<'_>,
        post: Option<(NormSite, &Norm)>,
        memory: &mut Products,
        (joining, residual): (&mut Vec<f32>, &mut [f32]),
    ) {
        let hidden = self.model.spec.hidden_size;
        let Some((site, base)) = post else {
            return self.map(group, memory, (residual, hidden));
        };
        joining.resize(self.count * hidden, 0.0);
        let group = Group {
            then: Then::Store,
            ..group
        };
        self.map(group, memory, (joining, hidden));
        let own = OwnNorms::of(self.segments, site, base);
        let own = own.weights();
        let norms = row_norms(self.model.spec.norm, base, &own);
        add_normed(self.context, norms, self.count, joining, residual);
    }
}
