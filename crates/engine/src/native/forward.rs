//! The decoder: embedding, layers, logits.

use rootstock_kernels::{Context, KvCache, Part, Precision, Source, Then};
use rootstock_model::{NormSite, Site};

use super::batch::{Segment, StepLayout};
use super::bottleneck::BottleneckMemory;
use super::changes::SegmentRows;
use super::embed::embed;
use super::layer::Pass;
use super::rows::{Group, Products, Rows, chunks};
use super::weights::PackedModel;

/// What runs in a step.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub layout: &'a StepLayout,
    pub segments: &'a [Segment<'a>],
}

/// Intermediate results; they keep their memory between steps.
pub(super) struct Buffers {
    /// The residual stream, `[rows, hidden]`.
    pub residual: Vec<f32>,
    /// Queries, keys and values, `[rows, qkv width]`.
    pub qkv: Vec<f32>,
    /// What attention gives, `[rows, heads * head_dim]`.
    pub attended: Vec<f32>,
    /// What the feed-forward keeps between its products: gate and up side by side, or up alone.
    pub inner: Vec<f32>,
    /// What is normalised before it joins the residual stream, `[rows, hidden]`.
    pub joining: Vec<f32>,
    /// Rows of the residual stream that give logits.
    selected: Vec<f32>,
    pub products: Products,
    pub bottlenecks: BottleneckMemory,
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
            products: Products::new(precision),
            bottlenecks: BottleneckMemory::new(),
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
    let chunks = chunks(&segments, rows, context.pool.threads());
    for (index, layer) in model.layers.iter().enumerate() {
        let mut pass = Pass {
            rows: Rows {
                context: &mut *context,
                model,
                segments: &segments,
                count: rows,
                coarse_from: step.layout.prompts_from,
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
        coarse_from: usize::MAX,
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
