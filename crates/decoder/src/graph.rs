//! The walk through a decoder, over the operations that a way of computing provides.

use rootstock_model::adapter::BottleneckInput;
use rootstock_model::{
    Activation, ArchSpec, Block, BlockSite, FeedForward, LayerSpec, NormSite, Position, Projection, Site,
};

/// Operations on rows of values; each gives a new value.
pub trait Graph {
    /// Rows of values, cheap to copy.
    type Value: Copy;

    /// Rows of the residual stream for the tokens of the batch, learned positions included.
    fn embed(&mut self) -> Self::Value;
    /// A normalisation, of whole rows or of every head in them.
    fn norm(&mut self, x: Self::Value, site: NormSite) -> Self::Value;
    /// A linear map with whatever is trained at it.
    fn map(&mut self, x: Self::Value, site: Site) -> Self::Value;
    /// Rotary positions of the heads of a layer. `x` is not used again.
    fn rotate(&mut self, x: Self::Value, layer: usize) -> Self::Value;
    /// Causal attention within sequences.
    fn attend(&mut self, queries: Self::Value, keys: Self::Value, values: Self::Value, layer: usize) -> Self::Value;
    /// `activation(gate) * up`.
    fn gate(&mut self, activation: Activation, gate: Self::Value, up: Self::Value) -> Self::Value;
    /// `activation(x)`.
    fn activate(&mut self, activation: Activation, x: Self::Value) -> Self::Value;
    /// `x` and what the bottleneck after a block makes of it, where one that sees such an input is trained there; else `x`.
    fn bottleneck(&mut self, x: Self::Value, site: BlockSite, input: BottleneckInput) -> Self::Value;
    /// `residual + x`. `x` is not used again.
    fn add(&mut self, residual: Self::Value, x: Self::Value) -> Self::Value;
}

/// One layer: what it makes of the residual stream `x`.
pub fn layer<G: Graph>(graph: &mut G, spec: &ArchSpec, index: usize, x: G::Value) -> G::Value {
    let layer = &spec.layers[index];
    let attended = attention(graph, layer, index, x);
    let site = |block| BlockSite { layer: index, block };
    let x = join(graph, layer, x, attended, site(Block::Attention));
    let normed = graph.norm(x, NormSite::FeedForward(index));
    let fed = feed_forward(graph, layer, index, normed);
    join(graph, layer, x, fed, site(Block::FeedForward))
}

fn at(layer: usize, projection: Projection) -> Site {
    Site::Layer { layer, projection }
}

fn attention<G: Graph>(graph: &mut G, layer: &LayerSpec, index: usize, x: G::Value) -> G::Value {
    let normed = graph.norm(x, NormSite::Attention(index));
    let mut queries = graph.map(normed, at(index, Projection::Query));
    let mut keys = graph.map(normed, at(index, Projection::Key));
    let values = graph.map(normed, at(index, Projection::Value));
    if layer.attention.head_norms {
        queries = graph.norm(queries, NormSite::Query(index));
        keys = graph.norm(keys, NormSite::Key(index));
    }
    if layer.attention.position != Position::None {
        queries = graph.rotate(queries, index);
        keys = graph.rotate(keys, index);
    }
    let attended = graph.attend(queries, keys, values, index);
    graph.map(attended, at(index, Projection::Output))
}

fn feed_forward<G: Graph>(graph: &mut G, layer: &LayerSpec, index: usize, x: G::Value) -> G::Value {
    let inner = match layer.feed_forward {
        FeedForward::Gated { activation, .. } => {
            let gate = graph.map(x, at(index, Projection::Gate));
            let up = graph.map(x, at(index, Projection::Up));
            graph.gate(activation, gate, up)
        }
        FeedForward::Plain { activation, .. } => {
            let up = graph.map(x, at(index, Projection::Up));
            graph.activate(activation, up)
        }
    };
    graph.map(inner, at(index, Projection::Down))
}

/// What a block gives joins the residual stream, normalised where the layer says so.
fn join<G: Graph>(graph: &mut G, layer: &LayerSpec, residual: G::Value, x: G::Value, site: BlockSite) -> G::Value {
    let post = match site.block {
        Block::Attention => NormSite::PostAttention(site.layer),
        Block::FeedForward => NormSite::PostFeedForward(site.layer),
    };
    let x = if layer.post_norms { graph.norm(x, post) } else { x };
    let x = graph.bottleneck(x, site, BottleneckInput::Output);
    let sum = graph.add(residual, x);
    graph.bottleneck(sum, site, BottleneckInput::Sum)
}
