//! Bottlenecks of adapters: their maps in the kernels' layout, and what they make of the rows of a block.
//!
//! A bottleneck sees the rows of its segment alone and adds to them alone, with products in f32 whose outputs have one
//! order of additions: what lies beside a row changes none of its bits.

use std::borrow::Cow;
use std::ops::Range;

use rootstock_kernels::{
    Activation, Activations, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};
use rootstock_model::BlockSite;
use rootstock_model::adapter::BottleneckInput;

use super::changes::SegmentRows;

/// The maps of one bottleneck.
pub(super) struct PackedBottleneck {
    pub input: BottleneckInput,
    pub activation: Activation,
    pub scale: f32,
    pub down: PackedMatrix,
    pub down_bias: Vec<f32>,
    pub up: PackedMatrix,
    pub up_bias: Vec<f32>,
}

impl PackedBottleneck {
    pub fn bytes(&self) -> usize {
        let biases = size_of_val(&self.down_bias[..]) + size_of_val(&self.up_bias[..]);
        size_of::<Self>() + self.down.bytes() + self.up.bytes() + biases
    }
}

/// Memory of bottlenecks between their uses.
pub(super) struct BottleneckMemory {
    activations: Activations,
    /// What lies between the maps.
    inner: Vec<f32>,
    /// Rows of the residual stream that are added again later.
    aside: Vec<f32>,
}

impl BottleneckMemory {
    pub fn new() -> Self {
        Self {
            activations: Activations::new(Precision::F32),
            inner: Vec::new(),
            aside: Vec::new(),
        }
    }
}

/// One bottleneck and the rows that it is for.
struct Job<'a> {
    rows: Range<usize>,
    bottleneck: &'a PackedBottleneck,
    /// The request's.
    factor: f32,
}

/// The bottlenecks after one block of some rows.
pub(super) struct Bottlenecks<'a> {
    jobs: Vec<Job<'a>>,
    hidden: usize,
}

impl<'a> Bottlenecks<'a> {
    /// Those of the adapters of `segments`.
    pub fn of(segments: &'a [SegmentRows<'a>], site: BlockSite, hidden: usize) -> Self {
        let jobs = segments.iter().flat_map(|(rows, segment)| {
            let own = segment.adapters.iter().filter_map(move |(adapter, factor)| {
                Some(Job {
                    rows: rows.clone(),
                    bottleneck: adapter.bottleneck(site)?,
                    factor: *factor,
                })
            });
            own.filter(|job| job.factor != 0.0)
        });
        Self {
            jobs: jobs.collect(),
            hidden,
        }
    }

    fn elements(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.hidden..rows.end * self.hidden
    }

    /// Rows whose bottleneck sees the block's output alone.
    fn of_output(&self) -> impl Iterator<Item = &Range<usize>> {
        let jobs = self
            .jobs
            .iter()
            .filter(|job| job.bottleneck.input == BottleneckInput::Output);
        jobs.map(|job| &job.rows)
    }

    /// Before the block's output is added to the residual stream: where a bottleneck sees that output alone, the stream is put
    /// aside, so that what is added to stands alone.
    pub fn before(&self, residual: &mut [f32], memory: &mut BottleneckMemory) {
        memory.aside.clear();
        for rows in self.of_output() {
            let residual = &mut residual[self.elements(rows)];
            memory.aside.extend_from_slice(residual);
            residual.fill(0.0);
        }
    }

    /// After it: adds what the bottlenecks give, and what was put aside.
    pub fn after(&self, context: &mut Context, residual: &mut [f32], memory: &mut BottleneckMemory) {
        for job in &self.jobs {
            job.run(context, &mut residual[self.elements(&job.rows)], memory);
        }
        let mut aside = &memory.aside[..];
        for rows in self.of_output() {
            let residual = &mut residual[self.elements(rows)];
            let (own, rest) = aside.split_at(residual.len());
            residual.iter_mut().zip(own).for_each(|(to, value)| *to += value);
            aside = rest;
        }
    }
}

impl Job<'_> {
    /// `rows += factor * scale * (up activation(down rows + down_bias) + up_bias)`
    fn run(&self, context: &mut Context, rows: &mut [f32], memory: &mut BottleneckMemory) {
        let PackedBottleneck { down, up, .. } = self.bottleneck;
        let (width, hidden) = (up.inputs(), down.inputs());
        let scale = self.factor * self.bottleneck.scale;
        let activation = Then::Activate(self.bottleneck.activation);
        memory.inner.resize(rows.len() / hidden * width, 0.0);
        let inner = (&mut memory.inner[..], width);
        let down = (down, &self.bottleneck.down_bias[..]);
        map(context, down, rows, activation, inner, &mut memory.activations);
        let mut bias = Cow::Borrowed(&self.bottleneck.up_bias[..]);
        if scale != 1.0 {
            memory.inner.iter_mut().for_each(|value| *value *= scale);
            bias.to_mut().iter_mut().for_each(|value| *value *= scale);
        }
        let to = (rows, hidden);
        map(
            context,
            (up, &bias),
            &memory.inner,
            Then::Add,
            to,
            &mut memory.activations,
        );
    }
}

/// One map of a bottleneck.
fn map(
    context: &mut Context,
    (matrix, bias): (&PackedMatrix, &[f32]),
    rows: &[f32],
    then: Then,
    (to, stride): (&mut [f32], usize),
    activations: &mut Activations,
) {
    let (source, mut none) = (Source::dense(rows, matrix.inputs(), None), LowRankBatch::default());
    prepare(context, source, rows.len() / matrix.inputs(), activations, &mut none);
    let part = Part {
        matrix,
        bias: Some(bias),
        column: 0,
    };
    linear(context, activations, &[part], &none, then, (to, stride));
}
