//! The decoder: embedding, layers, logits. Each line of a layer is one parallel region of the kernels.

use rootstock_kernels::{
    Activations, Context, KvCache, LowRankBatch, LowRankTerm, Part, Precision, Source, Then, attend, linear, prepare,
    rotate_and_store,
};
use rootstock_model::Projection;

use super::batch::{Segment, StepLayout};
use super::weights::{PackedLayer, PackedModel};

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
    /// Gate and up side by side, `[rows, 2 * inner]`.
    gated: Vec<f32>,
    /// Rows of the residual stream that give logits.
    selected: Vec<f32>,
    /// Input of the next product.
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
            gated: Vec::new(),
            selected: Vec::new(),
            activations: Activations::new(precision),
            deltas: LowRankBatch::default(),
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
    let hidden = model.hidden_size;
    buffers.residual.resize(step.layout.tokens.len() * hidden, 0.0);
    for (&token, row) in step.layout.tokens.iter().zip(buffers.residual.chunks_exact_mut(hidden)) {
        model.embed(token, row);
    }
    for (index, layer) in model.layers.iter().enumerate() {
        let mut pass = Pass {
            context: &mut *context,
            model,
            step,
            index,
            layer,
        };
        pass.attention(cache, buffers);
        pass.feed_forward(buffers);
    }
    output(context, model, buffers, &step.layout.outputs, logits);
}

/// One layer of a step.
struct Pass<'a> {
    context: &'a mut Context,
    model: &'a PackedModel,
    step: Step<'a>,
    index: usize,
    layer: &'a PackedLayer,
}

impl<'a> Pass<'a> {
    fn attention(&mut self, cache: &mut KvCache, buffers: &mut Buffers) {
        let (heads, places, layer) = (self.model.heads, &self.step.layout.places, self.layer);
        let rows = self.rows();
        let (queries, keys) = (heads.width(), heads.kv_heads * heads.head_dim);
        buffers.qkv.resize(rows * heads.qkv_width(), 0.0);
        buffers.attended.resize(rows * queries, 0.0);
        let parts = [
            Part {
                matrix: &layer.query,
                bias: None,
                column: 0,
            },
            Part {
                matrix: &layer.key,
                bias: None,
                column: queries,
            },
            Part {
                matrix: &layer.value,
                bias: None,
                column: queries + keys,
            },
        ];
        let source = self.normed(&buffers.residual, &layer.attention_norm);
        let names = [Projection::Query, Projection::Key, Projection::Value];
        let out = (&mut buffers.qkv[..], heads.qkv_width());
        self.map(
            (source, &names, &parts),
            Then::Store,
            (&mut buffers.activations, &mut buffers.deltas),
            out,
        );
        rotate_and_store(
            self.context,
            &heads,
            &self.model.rotary,
            places,
            (cache, self.index),
            &mut buffers.qkv,
        );
        attend(
            self.context,
            &heads,
            places,
            (cache, self.index),
            &buffers.qkv,
            &mut buffers.attended,
        );
        let source = Source {
            values: &buffers.attended,
            stride: queries,
            width: queries,
            norm: None,
        };
        let parts = [Part {
            matrix: &layer.output,
            bias: None,
            column: 0,
        }];
        let out = (&mut buffers.residual[..], self.model.hidden_size);
        self.map(
            (source, &[Projection::Output], &parts),
            Then::Add,
            (&mut buffers.activations, &mut buffers.deltas),
            out,
        );
    }

    fn feed_forward(&mut self, buffers: &mut Buffers) {
        let layer = self.layer;
        let inner = layer.gate.outputs();
        buffers.gated.resize(self.rows() * 2 * inner, 0.0);
        let parts = [
            Part {
                matrix: &layer.gate,
                bias: None,
                column: 0,
            },
            Part {
                matrix: &layer.up,
                bias: None,
                column: inner,
            },
        ];
        let source = self.normed(&buffers.residual, &layer.feed_forward_norm);
        let names = [Projection::Gate, Projection::Up];
        let out = (&mut buffers.gated[..], 2 * inner);
        self.map(
            (source, &names, &parts),
            Then::Gate(rootstock_kernels::Activation::Silu),
            (&mut buffers.activations, &mut buffers.deltas),
            out,
        );
        let source = Source {
            values: &buffers.gated,
            stride: 2 * inner,
            width: inner,
            norm: None,
        };
        let parts = [Part {
            matrix: &layer.down,
            bias: None,
            column: 0,
        }];
        let out = (&mut buffers.residual[..], self.model.hidden_size);
        self.map(
            (source, &[Projection::Down], &parts),
            Then::Add,
            (&mut buffers.activations, &mut buffers.deltas),
            out,
        );
    }

    fn rows(&self) -> usize {
        self.step.layout.tokens.len()
    }

    fn normed<'b>(&self, residual: &'b [f32], weight: &'b [f32]) -> Source<'b> {
        let hidden = self.model.hidden_size;
        Source {
            values: residual,
            stride: hidden,
            width: hidden,
            norm: Some((weight, self.model.epsilon)),
        }
    }

    /// A group of maps on the same input, adapters included.
    fn map(
        &mut self,
        (source, names, parts): (Source<'_>, &[Projection], &[Part<'_>]),
        then: Then,
        (activations, memory): (&mut Activations, &mut LowRankBatch<'static>),
        out: (&mut [f32], usize),
    ) {
        let mut deltas = self.deltas(names, std::mem::take(memory));
        prepare(self.context, source, self.rows(), activations, &mut deltas);
        linear(self.context, activations, parts, &deltas, then, out);
        *memory = deltas.reuse();
    }

    /// The low-rank terms of all segments on the maps `names` of this layer.
    fn deltas(&self, names: &[Projection], memory: LowRankBatch<'static>) -> LowRankBatch<'a> {
        let mut deltas: LowRankBatch<'a> = memory;
        for segment in self.step.segments {
            for (adapter, factor) in &segment.adapters {
                for (part, &projection) in names.iter().enumerate() {
                    if let Some(scaled) = adapter.pair(self.index, projection) {
                        let (pair, scale) = (&scaled.pair, scaled.scale * factor);
                        deltas.push(LowRankTerm {
                            rows: segment.rows.clone(),
                            part,
                            pair,
                            scale,
                        });
                    }
                }
            }
        }
        deltas
    }
}

/// Logits of `rows`, one after the other.
fn output(context: &mut Context, model: &PackedModel, buffers: &mut Buffers, rows: &[usize], logits: &mut Vec<f32>) {
    let (hidden, vocab_size) = (model.hidden_size, model.vocab_size());
    logits.resize(rows.len() * vocab_size, 0.0);
    if rows.is_empty() {
        return;
    }
    buffers.selected.clear();
    for row in rows {
        buffers
            .selected
            .extend_from_slice(&buffers.residual[row * hidden..(row + 1) * hidden]);
    }
    let norm = Some((&model.final_norm[..], model.epsilon));
    let source = Source {
        values: &buffers.selected,
        stride: hidden,
        width: hidden,
        norm,
    };
    let none = &mut LowRankBatch::default();
    prepare(context, source, rows.len(), &mut buffers.activations, none);
    let parts = [Part {
        matrix: model.output(),
        bias: None,
        column: 0,
    }];
    linear(
        context,
        &buffers.activations,
        &parts,
        none,
        Then::Store,
        (logits, vocab_size),
    );
}
