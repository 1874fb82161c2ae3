//! The decoder: embedding, layers, logits. Each line of a layer is one parallel region of the kernels.

use std::ops::Range;

use rootstock_kernels::{
    Activations, Context, HeadTransform, KvCache, LowRankBatch, Part, Precision, Source, Then, add_normed, attend,
    linear, prepare, rotate_and_store,
};
use rootstock_model::{Norm, NormSite, Projection, Site};

use super::batch::{Segment, StepLayout};
use super::changes::{OwnNorms, SegmentRows, row_norms, terms};
use super::embed::embed;
use super::weights::{PackedLayer, PackedModel};

/// Products take a step's rows so many at a time, each part from a group's input to its output: what lies between, the
/// widest rows of a layer, then stays in the second-level caches.
const ROWS_IN_CACHE: usize = 128;

/// What runs in a step.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub layout: &'a StepLayout,
    pub segments: &'a [Segment<'a>],
}

/// Intermediate results; they keep their memory between steps.
pub(super) struct Buffers {
    /// The residual stream, `[rows, hidden]`.
    residual: Vec<f32>,
    /// Queries, keys and values, `[rows, qkv width]`.
    qkv: Vec<f32>,
    /// What attention gives, `[rows, heads * head_dim]`.
    attended: Vec<f32>,
    /// What the feed-forward keeps between its products: gate and up side by side, or up alone.
    inner: Vec<f32>,
    /// What is normalised before it joins the residual stream, `[rows, hidden]`.
    joining: Vec<f32>,
    /// Rows of the residual stream that give logits.
    selected: Vec<f32>,
    products: Products,
}

/// Memory of a group of products.
struct Products {
    /// Their input.
    activations: Activations,
    /// Memory of [`LowRankBatch`] between its uses.
    deltas: LowRankBatch<'static>,
}

impl Buffers {
    pub fn new(precision: Precision) -> Self {
        Self {
            residual: Vec::new(),
            qkv: Vec::new(),
            attended: Vec::new(),
            inner: Vec::new(),
            joining: Vec::new(),
            selected: Vec::new(),
            products: Products {
                activations: Activations::new(precision),
                deltas: LowRankBatch::default(),
            },
        }
    }
}

/// Runs a step: KV of every row goes to `cache`, logits of the wanted rows to `logits`.
pub(super) fn run(
    context: &mut Context,
    model: &PackedModel,
    cache: &mut KvCache,
    buffers: &mut Buffers,
    step: Step<'_>,
    logits: &mut Vec<f32>,
) {
    let rows = step.layout.tokens.len();
    buffers.residual.resize(rows * model.spec.hidden_size, 0.0);
    embed(model, step.layout, step.segments, &mut buffers.residual);
    let segments: Vec<SegmentRows<'_>> = step
        .segments
        .iter()
        .map(|segment| (segment.rows.clone(), segment))
        .collect();
    let chunks = chunks(&segments, rows);
    for (index, layer) in model.layers.iter().enumerate() {
        let mut pass = Pass {
            rows: Rows {
                context: &mut *context,
                model,
                segments: &segments,
                count: rows,
            },
            chunks: &chunks,
            step,
            index,
            layer,
        };
        pass.attention(cache, buffers);
        pass.feed_forward(buffers);
    }
    output(context, model, buffers, step, logits);
}

/// Consecutive rows of a step.
struct Chunk<'a> {
    rows: Range<usize>,
    /// Their segments, in terms of places among them.
    segments: Vec<SegmentRows<'a>>,
}

impl Chunk<'_> {
    /// Their elements in rows of `width`.
    fn of(&self, width: usize) -> Range<usize> {
        self.rows.start * width..self.rows.end * width
    }
}

/// All rows in nearly equal chunks of at most [`ROWS_IN_CACHE`].
fn chunks<'a>(segments: &[SegmentRows<'a>], rows: usize) -> Vec<Chunk<'a>> {
    let count = rows.div_ceil(ROWS_IN_CACHE);
    let chunk = |index: usize| {
        let rows = rows * index / count..rows * (index + 1) / count;
        let part = |(of, segment): &SegmentRows<'a>| {
            let (start, end) = (of.start.max(rows.start), of.end.min(rows.end));
            (start < end).then(|| (start - rows.start..end - rows.start, *segment))
        };
        let segments = segments.iter().filter_map(part).collect();
        Chunk { rows, segments }
    };
    (0..count).map(chunk).collect()
}

/// Rows that go through products together.
struct Rows<'a> {
    context: &'a mut Context,
    model: &'a PackedModel,
    segments: &'a [SegmentRows<'a>],
    count: usize,
}

/// A group of maps on one input.
struct Group<'a> {
    source: Source<'a>,
    /// Normalisation of the input on the way.
    norm: Option<(NormSite, &'a Norm)>,
    sites: &'a [Site],
    parts: &'a [Part<'a>],
    then: Then,
}

impl Rows<'_> {
    /// Some of them.
    fn part<'b>(&'b mut self, chunk: &'b Chunk<'_>) -> Rows<'b> {
        Rows {
            context: &mut *self.context,
            model: self.model,
            segments: &chunk.segments,
            count: chunk.rows.len(),
        }
    }

    /// The products of a group, adapters included, into rows of `stride` elements.
    fn map(&mut self, group: Group<'_>, memory: &mut Products, (out, stride): (&mut [f32], usize)) {
        let own = group.norm.map(|(site, base)| OwnNorms::of(self.segments, site, base));
        let own = own.as_ref().map(OwnNorms::weights).unwrap_or_default();
        let source = Source {
            norm: group.norm.map(|(_, base)| row_norms(self.model.spec.norm, base, &own)),
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
    fn join(
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

/// One layer of a step.
struct Pass<'a> {
    rows: Rows<'a>,
    chunks: &'a [Chunk<'a>],
    step: Step<'a>,
    index: usize,
    layer: &'a PackedLayer,
}

impl Pass<'_> {
    fn attention(&mut self, cache: &mut KvCache, buffers: &mut Buffers) {
        let (heads, layer, places) = (self.layer.heads, self.layer, &self.step.layout.places);
        let norm = (NormSite::Attention(self.index), &layer.attention_norm);
        let entrance = [Projection::Query, Projection::Key, Projection::Value];
        buffers.qkv.resize(self.rows.count * heads.qkv_width(), 0.0);
        for chunk in self.chunks {
            let to = &mut buffers.qkv[chunk.of(heads.qkv_width())];
            let between = (&buffers.residual[..], to);
            self.enter(chunk, &entrance, norm, Then::Store, between, &mut buffers.products);
        }
        self.place_heads(cache, &mut buffers.qkv);
        buffers.attended.resize(self.rows.count * heads.width(), 0.0);
        let at = (&*cache, self.index);
        attend(
            self.rows.context,
            &heads,
            places,
            at,
            &buffers.qkv,
            &mut buffers.attended,
        );
        let post = layer.post_attention_norm.as_ref();
        let post = post.map(|norm| (NormSite::PostAttention(self.index), norm));
        for chunk in self.chunks {
            let source = Source::dense(&buffers.attended[chunk.of(heads.width())], heads.width(), None);
            let to = (&mut buffers.joining, &mut buffers.residual[..]);
            self.leave(chunk, Projection::Output, source, post, &mut buffers.products, to);
        }
    }

    /// Normalises and rotates queries and keys, and writes keys and values to their pages.
    fn place_heads(&mut self, cache: &mut KvCache, qkv: &mut [f32]) {
        let (rows, layer, places) = (&mut self.rows, self.layer, &self.step.layout.places);
        let norms = layer.head_norms.as_ref().map(|(query, key)| {
            let own = |site, base| OwnNorms::of(rows.segments, site, base);
            let (own_query, own_key) = (
                own(NormSite::Query(self.index), query),
                own(NormSite::Key(self.index), key),
            );
            ((query, own_query), (key, own_key))
        });
        let weights = norms
            .as_ref()
            .map(|((_, query), (_, key))| (query.weights(), key.weights()));
        let spec = rows.model.spec.norm;
        let transform = HeadTransform {
            norms: norms
                .as_ref()
                .zip(weights.as_ref())
                .map(|(((query, _), (key, _)), (own_query, own_key))| {
                    (row_norms(spec, query, own_query), row_norms(spec, key, own_key))
                }),
            rotary: rows.model.rotary(layer),
        };
        rotate_and_store(rows.context, &layer.heads, transform, places, (cache, self.index), qkv);
    }

    fn feed_forward(&mut self, buffers: &mut Buffers) {
        let layer = self.layer;
        let entrance = [Projection::Gate, Projection::Up];
        let (_, stride) = layer.parts(&entrance);
        let norm = (NormSite::FeedForward(self.index), &layer.feed_forward_norm);
        let width = layer.map(Projection::Down).map_or(0, |map| map.matrix.inputs());
        let post = layer.post_feed_forward_norm.as_ref();
        let post = post.map(|norm| (NormSite::PostFeedForward(self.index), norm));
        for chunk in self.chunks {
            buffers.inner.resize(chunk.rows.len() * stride, 0.0);
            let between = (&buffers.residual[..], &mut buffers.inner[..]);
            self.enter(chunk, &entrance, norm, layer.activation, between, &mut buffers.products);
            let source = Source {
                values: &buffers.inner,
                stride,
                width,
                norm: None,
            };
            let to = (&mut buffers.joining, &mut buffers.residual[..]);
            self.leave(chunk, Projection::Down, source, post, &mut buffers.products, to);
        }
    }

    /// The products at the entrance of a half of the layer: the chunk's rows of the normalised residual stream into rows
    /// that hold the outputs of all `projections` side by side.
    fn enter(
        &mut self,
        chunk: &Chunk<'_>,
        projections: &[Projection],
        norm: (NormSite, &Norm),
        then: Then,
        (residual, out): (&[f32], &mut [f32]),
        memory: &mut Products,
    ) {
        let (parts, stride) = self.layer.parts(projections);
        let (projections, parts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let hidden = self.rows.model.spec.hidden_size;
        let group = Group {
            source: Source::dense(&residual[chunk.of(hidden)], hidden, None),
            norm: Some(norm),
            sites: &self.sites(&projections),
            parts: &parts,
            then,
        };
        self.rows.part(chunk).map(group, memory, (out, stride));
    }

    /// The product at the exit of a half of the layer, into the chunk's rows of the residual stream.
    fn leave(
        &mut self,
        chunk: &Chunk<'_>,
        projection: Projection,
        source: Source<'_>,
        post: Option<(NormSite, &Norm)>,
        memory: &mut Products,
        (joining, residual): (&mut Vec<f32>, &mut [f32]),
    ) {
        let (parts, _) = self.layer.parts(&[projection]);
        let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
        let group = Group {
            source,
            norm: None,
            sites: &self.sites(&[projection]),
            parts: &parts,
            then: Then::Add,
        };
        let residual = &mut residual[chunk.of(self.rows.model.spec.hidden_size)];
        self.rows.part(chunk).join(group, post, memory, (joining, residual));
    }

    fn sites(&self, projections: &[Projection]) -> Vec<Site> {
        let layer = self.index;
        let site = |&projection| Site::Layer { layer, projection };
        projections.iter().map(site).collect()
    }
}

/// Logits of the wanted rows, one after the other.
fn output(context: &mut Context, model: &PackedModel, buffers: &mut Buffers, step: Step<'_>, logits: &mut Vec<f32>) {
    let (hidden, vocab_size, outputs) = (model.spec.hidden_size, model.vocab_size(), &step.layout.outputs);
    logits.resize(outputs.len() * vocab_size, 0.0);
    if outputs.is_empty() {
        return;
    }
    buffers.selected.clear();
    for row in outputs {
        let row = &buffers.residual[row * hidden..(row + 1) * hidden];
        buffers.selected.extend_from_slice(row);
    }
    let mut rows = Rows {
        context,
        model,
        segments: &selected_segments(step, outputs),
        count: outputs.len(),
    };
    let group = Group {
        source: Source::dense(&buffers.selected, hidden, None),
        norm: Some((NormSite::Final, &model.final_norm)),
        sites: &[Site::Output],
        parts: &[Part {
            matrix: model.output(),
            bias: None,
            column: 0,
        }],
        then: Then::Store,
    };
    rows.map(group, &mut buffers.products, (logits, vocab_size));
}

/// The segments of the rows `outputs`, in terms of their places in that list.
fn selected_segments<'a>(step: Step<'a>, outputs: &[usize]) -> Vec<SegmentRows<'a>> {
    let mut selected: Vec<SegmentRows<'a>> = Vec::new();
    for (place, row) in outputs.iter().enumerate() {
        let Some(segment) = step.segments.iter().find(|segment| segment.rows.contains(row)) else {
            continue;
        };
        match selected.last_mut() {
            Some((rows, last)) if rows.end == place && std::ptr::eq(*last, segment) => rows.end = place + 1,
            _ => selected.push((place..place + 1, segment)),
        }
    }
    selected
}
