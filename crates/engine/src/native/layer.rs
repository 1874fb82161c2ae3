//! One layer of a step: attention, then the feed-forward. Each call of a kernel is one parallel region.

use rootstock_kernels::{HeadTransform, KvCache, Source, Then, attend, rotate_and_store};
use rootstock_model::{Block, BlockSite, Norm, NormSite, Projection, Site};

use super::bottleneck::{BottleneckMemory, Bottlenecks};
use super::changes::{OwnNorms, row_norms};
use super::forward::{Buffers, Step};
use super::rows::{Chunk, Group, Products, Rows};
use super::weights::PackedLayer;

/// One layer of a step.
pub(super) struct Pass<'a> {
    pub rows: Rows<'a>,
    pub chunks: &'a [Chunk<'a>],
    pub step: Step<'a>,
    pub index: usize,
    pub layer: &'a PackedLayer,
}

impl Pass<'_> {
    pub fn attention(&mut self, cache: &mut KvCache, buffers: &mut Buffers) {
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
            let to = (
                &mut buffers.joining,
                &mut buffers.residual[..],
                &mut buffers.bottlenecks,
            );
            self.leave(chunk, Block::Attention, source, post, &mut buffers.products, to);
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

    pub fn feed_forward(&mut self, buffers: &mut Buffers) {
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
                stride,
                ..Source::dense(&buffers.inner, width, None)
            };
            let to = (
                &mut buffers.joining,
                &mut buffers.residual[..],
                &mut buffers.bottlenecks,
            );
            self.leave(chunk, Block::FeedForward, source, post, &mut buffers.products, to);
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

    /// The product at the exit of a block, into the chunk's rows of the residual stream, and the bottlenecks after it.
    fn leave(
        &mut self,
        chunk: &Chunk<'_>,
        block: Block,
        source: Source<'_>,
        post: Option<(NormSite, &Norm)>,
        memory: &mut Products,
        (joining, residual, bottlenecks): (&mut Vec<f32>, &mut [f32], &mut BottleneckMemory),
    ) {
        let projection = match block {
            Block::Attention => Projection::Output,
            Block::FeedForward => Projection::Down,
        };
        let (parts, _) = self.layer.parts(&[projection]);
        let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
        let group = Group {
            source,
            norm: None,
            sites: &self.sites(&[projection]),
            parts: &parts,
            then: Then::Add,
        };
        let (layer, hidden) = (self.index, self.rows.model.spec.hidden_size);
        let residual = &mut residual[chunk.of(hidden)];
        let own = Bottlenecks::of(chunk.segments(), BlockSite { layer, block }, hidden);
        own.before(residual, bottlenecks);
        self.rows
            .part(chunk)
            .join(group, post, memory, (joining, &mut *residual));
        own.after(self.rows.context, residual, bottlenecks);
    }

    fn sites(&self, projections: &[Projection]) -> Vec<Site> {
        let layer = self.index;
        let site = |&projection| Site::Layer { layer, projection };
        projections.iter().map(site).collect()
    }
}
