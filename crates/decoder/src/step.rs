//! One pass over a batch: losses, and on the way back the gradients of everything trained.

use rootstock_kernels::training::{Entropy, cross_entropy};
use rootstock_kernels::{Arithmetic, Context, Isa, ThreadPool};
use rootstock_model::{NormSite, Site};

use crate::graph::{Graph, layer};
use crate::tape::{Machine, Memory, Pass, Tape, Value, WeightNorms};
use crate::{Batch, DecoderError, FrozenModel, Parameters, Target, Trained};

/// Bytes of logits that stand at a time.
const LOGITS_BYTES: usize = 64 << 20;
/// Rows of logits at the least, whatever they take.
const LEAST_LOGITS_ROWS: usize = 16;

/// How steps are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSettings {
    /// Of products with frozen weights.
    pub arithmetic: Arithmetic,
    /// Keeps only what enters each layer, and computes the rest again on the way back (Chen et al., 2016).
    pub checkpointing: bool,
    /// Threads.
    pub threads: usize,
}

/// Computes steps; keeps memory from one to the next.
pub struct Engine {
    settings: StepSettings,
    context: Context,
    memory: Memory,
    /// Tokens that the memory is for.
    tokens: usize,
    norms: WeightNorms,
}

/// What a step computes on.
pub struct Subject<'a> {
    /// Weights that do not change.
    pub model: &'a FrozenModel,
    /// What is trained where.
    pub trained: &'a Trained,
    /// The trained tensors.
    pub parameters: &'a mut Parameters,
}

/// The way back of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learn {
    /// Factor on the sum of losses, of which gradients are taken.
    pub weight: f32,
    /// Decides what dropout drops.
    pub dropout_key: u64,
}

impl Engine {
    /// An engine with threads of its own.
    ///
    /// # Errors
    /// No threads, or a forced instruction set that the CPU lacks.
    pub fn new(settings: StepSettings) -> Result<Self, DecoderError> {
        Ok(Self {
            settings,
            context: Context {
                pool: ThreadPool::new(settings.threads)?,
                isa: Isa::detect()?,
            },
            memory: Memory::default(),
            tokens: 0,
            norms: WeightNorms::default(),
        })
    }

    /// How it computes.
    pub fn settings(&self) -> StepSettings {
        self.settings
    }

    /// Bytes that are kept from one step to the next: what the largest step since they were last given back took.
    pub fn kept_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Losses of the batch's targets, `-log p`, in their order. With `learn`, gradients are added to those of the parameters.
    pub fn step(&mut self, subject: Subject<'_>, batch: &Batch, learn: Option<Learn>) -> Vec<f32> {
        self.fit(batch.tokens().len());
        let mut machine = Machine {
            model: subject.model,
            trained: subject.trained,
            parameters: subject.parameters,
            context: &mut self.context,
            memory: &mut self.memory,
            norms: &mut self.norms,
        };
        let pass = Pass {
            arithmetic: self.settings.arithmetic,
            dropout_key: learn.map(|learn| learn.dropout_key),
        };
        let mut tape = Tape::new(&mut machine, batch, pass);
        let keep = learn.is_some() && !self.settings.checkpointing;
        run(&mut tape, subject.model, batch, learn, keep)
    }

    /// Gives memory back that a step over so many tokens has no use for: without this, what was kept for short steps would stand
    /// beside what long ones take.
    fn fit(&mut self, tokens: usize) {
        if tokens > self.tokens || tokens < self.tokens / 2 {
            self.memory.clear();
            self.tokens = tokens;
        }
    }
}

fn run(tape: &mut Tape<'_, '_>, model: &FrozenModel, batch: &Batch, learn: Option<Learn>, keep: bool) -> Vec<f32> {
    let spec = model.spec();
    let start = tape.mark();
    let mut x = tape.embed();
    let mut entrances = Vec::new();
    for index in 0..spec.layers.len() {
        entrances.push(x);
        let mark = tape.mark();
        let out = layer(tape, spec, index, x);
        x = if keep && tape.needs(out) {
            tape.put_away(mark, x, out);
            out
        } else {
            tape.forget(mark, out)
        };
    }
    let end = tape.mark();
    let normed = tape.norm(x, NormSite::Final);
    let losses = entropy(tape, model, batch.targets(), normed, learn);
    if learn.is_none() {
        return losses;
    }
    if keep {
        tape.backward_to(start);
        return losses;
    }
    tape.backward_to(end);
    for (index, entrance) in entrances.into_iter().enumerate().rev() {
        let out = x;
        x = entrance;
        if tape.gradient(out).is_none() {
            continue;
        }
        let mark = tape.mark();
        let again = layer(tape, spec, index, entrance);
        if tape.rounds() {
            // As without checkpointing, so that both give the same bits.
            tape.put_away(mark, entrance, again);
        }
        tape.move_gradient(out, again);
        tape.backward_to(mark);
    }
    tape.backward_to(start);
    losses
}

/// Rows of logits over so many tokens that stand at a time.
pub fn logits_rows(vocabulary: usize) -> usize {
    (LOGITS_BYTES / (vocabulary * size_of::<f32>())).max(LEAST_LOGITS_ROWS)
}

/// Losses of targets from normalised rows, logits standing a chunk at a time; the rows get their gradient.
fn entropy(
    tape: &mut Tape<'_, '_>,
    model: &FrozenModel,
    targets: &[Target],
    normed: Value,
    learn: Option<Learn>,
) -> Vec<f32> {
    let (hidden, columns) = (model.spec().hidden_size, model.spec().vocab_size);
    let chunk = logits_rows(columns);
    let mut losses = vec![0.0; targets.len()];
    let mut of_normed = learn.map(|_| tape.zeros(tape.values(normed).len()));
    let (mut rows, mut tokens) = (Vec::new(), Vec::new());
    for (targets, losses) in targets.chunks(chunk).zip(losses.chunks_mut(chunk)) {
        rows.clear();
        tokens.clear();
        for target in targets {
            rows.extend_from_slice(&tape.values(normed)[target.row * hidden..][..hidden]);
            tokens.push(target.token);
        }
        let mark = tape.mark();
        let input = tape.input(&rows, hidden);
        let after = tape.mark();
        let logits = tape.map(input, Site::Output);
        let weight = learn.map_or(0.0, |learn| learn.weight);
        let mut gradient = tape.take_values(logits);
        let entropy = Entropy {
            targets: &tokens,
            weight,
        };
        cross_entropy(tape.context(), entropy, &mut gradient, losses);
        let Some(of_normed) = &mut of_normed else {
            tape.give(gradient);
            tape.truncate(mark);
            continue;
        };
        tape.set_gradient(logits, gradient);
        tape.backward_to(after);
        let found = tape.gradient(input).unwrap_or(&[]);
        for (target, row) in targets.iter().zip(found.chunks_exact(hidden)) {
            let to = &mut of_normed[target.row * hidden..][..hidden];
            to.iter_mut().zip(row).for_each(|(to, value)| *to += value);
        }
        tape.truncate(mark);
    }
    if let Some(of_normed) = of_normed {
        tape.set_gradient(normed, of_normed);
    }
    losses
}
