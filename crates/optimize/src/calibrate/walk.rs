//! The residual stream of a text on its way through the layers.

use rootstock_decoder::tape::{Machine, Memory, Pass, Tape, Value, WeightNorms};
use rootstock_decoder::{Batch, DecoderError, FrozenModel, Graph, Parameters, Trained, layer};
use rootstock_kernels::{Arithmetic, Context, Isa, ThreadPool};
use rootstock_model::adapter::BottleneckInput;
use rootstock_model::checkpoint::Role;
use rootstock_model::{Activation, ArchSpec, BlockSite, NormSite, Projection, Site, WeightSource};

use crate::OptimizeError;

/// How a text is run.
#[derive(Debug, Clone, Copy)]
pub struct WalkSettings {
    /// Tokens of the longest sequence.
    pub max_length: usize,
    /// Threads.
    pub threads: usize,
}

/// The residual stream of some sequences before one of the layers.
pub struct Walk<'a> {
    batches: &'a [Batch],
    /// Of each batch, `[tokens, hidden]`.
    rows: Vec<Vec<f32>>,
    hidden: usize,
    machine: Parts,
}

/// What a tape computes with, beside a model.
struct Parts {
    trained: Trained,
    parameters: Parameters,
    context: Context,
    memory: Memory,
    norms: WeightNorms,
}

impl<'a> Walk<'a> {
    /// The stream before the first layer of a model with these weights.
    ///
    /// # Errors
    /// An embedding that cannot be read, or threads that cannot be made.
    pub fn new(
        spec: &ArchSpec,
        weights: &dyn WeightSource,
        batches: &'a [Batch],
        settings: WalkSettings,
    ) -> Result<Self, OptimizeError> {
        let context = Context {
            pool: ThreadPool::new(settings.threads).map_err(DecoderError::from)?,
            isa: Isa::detect().map_err(DecoderError::from)?,
        };
        let rows = batches
            .iter()
            .map(|batch| embed(spec, weights, batch))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            batches,
            rows,
            hidden: spec.hidden_size,
            machine: Parts {
                trained: Trained::default(),
                parameters: Parameters::default(),
                context,
                memory: Memory::default(),
                norms: WeightNorms::default(),
            },
        })
    }

    /// What the layer's maps are given, batch after batch, to `see`: for every distinct input the site by which [`input_site`] knows
    /// it, and its rows. The stream stays before the layer.
    pub fn observe(&mut self, model: &FrozenModel, index: usize, see: &mut dyn FnMut(&mut Context, Site, &[f32])) {
        for batch in 0..self.batches.len() {
            self.pass(model, index, batch, see);
        }
    }

    /// Takes the stream through a layer.
    pub fn advance(&mut self, model: &FrozenModel, index: usize) {
        for batch in 0..self.batches.len() {
            self.rows[batch] = self.pass(model, index, batch, &mut |_, _, _| {});
        }
    }

    /// [`Self::observe`] and [`Self::advance`] in one pass.
    pub fn observe_and_advance(
        &mut self,
        model: &FrozenModel,
        index: usize,
        see: &mut dyn FnMut(&mut Context, Site, &[f32]),
    ) {
        for batch in 0..self.batches.len() {
            self.rows[batch] = self.pass(model, index, batch, see);
        }
    }

    /// What the output projection is given, once the stream has passed all layers, of each batch. Of `model` only the last
    /// normalisation is read.
    pub fn output(&mut self, model: &FrozenModel) -> Vec<Vec<f32>> {
        let hidden = self.hidden;
        let normed = self.batches.iter().zip(&self.rows).map(|(batch, rows)| {
            self.machine.on(model, batch, |tape| {
                let x = tape.constant(rows, hidden);
                let normed = tape.norm(x, NormSite::Final);
                tape.take_values(normed)
            })
        });
        normed.collect()
    }

    /// The stream as it is, of each batch.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    /// Puts the stream back to what it was before a layer.
    pub fn set_rows(&mut self, rows: Vec<Vec<f32>>) {
        self.rows = rows;
    }

    /// Threads and instructions.
    pub fn context(&mut self) -> &mut Context {
        &mut self.machine.context
    }

    /// One batch through one layer.
    fn pass(
        &mut self,
        model: &FrozenModel,
        index: usize,
        batch: usize,
        see: &mut dyn FnMut(&mut Context, Site, &[f32]),
    ) -> Vec<f32> {
        let (rows, hidden) = (&self.rows[batch], self.hidden);
        let (out, seen) = self.machine.on(model, &self.batches[batch], |tape| {
            let x = tape.constant(rows, hidden);
            let mut watched = Watched { tape, seen: Vec::new() };
            let out = layer(&mut watched, model.spec(), index, x);
            let seen = watched.seen;
            (tape.take_values(out), seen)
        });
        for (site, rows) in &seen {
            see(&mut self.machine.context, *site, rows);
        }
        out
    }
}

impl Parts {
    /// Runs operations over a batch, and forgets all but what they give.
    fn on<T>(&mut self, model: &FrozenModel, batch: &Batch, run: impl FnOnce(&mut Tape<'_, '_>) -> T) -> T {
        let mut machine = Machine {
            model,
            trained: &self.trained,
            parameters: &mut self.parameters,
            context: &mut self.context,
            memory: &mut self.memory,
            norms: &mut self.norms,
        };
        let pass = Pass {
            arithmetic: Arithmetic::F32,
            dropout_key: None,
        };
        run(&mut Tape::new(&mut machine, batch, pass))
    }
}

/// The rows of the residual stream for the tokens of a batch.
fn embed(spec: &ArchSpec, weights: &dyn WeightSource, batch: &Batch) -> Result<Vec<f32>, OptimizeError> {
    let mut rows = Vec::with_capacity(batch.tokens().len() * spec.hidden_size);
    for &token in batch.tokens() {
        let token = token as usize;
        weights.append_rows(Role::Embedding, token..token + 1, spec.vocab_size, &mut rows)?;
    }
    rows.iter_mut().for_each(|value| *value *= spec.embedding_scale);
    if let Some(positions) = spec.position_embeddings {
        let mut learned = Vec::with_capacity(rows.len());
        for &position in batch.positions() {
            weights.append_rows(Role::Positions, position..position + 1, positions, &mut learned)?;
        }
        rows.iter_mut()
            .zip(&learned)
            .for_each(|(value, learned)| *value += learned);
    }
    Ok(rows)
}

/// The site by which the input of a map is known: maps of a layer that are given the same rows share one.
pub fn input_site(site: Site) -> Site {
    let Site::Layer { layer, projection } = site else {
        return site;
    };
    let projection = match projection {
        Projection::Query | Projection::Key | Projection::Value => Projection::Query,
        Projection::Gate | Projection::Up => Projection::Up,
        Projection::Output | Projection::Down => projection,
    };
    Site::Layer { layer, projection }
}

/// A walk whose maps' inputs are kept.
struct Watched<'t, 'a, 'm> {
    tape: &'t mut Tape<'a, 'm>,
    seen: Vec<(Site, Vec<f32>)>,
}

impl Graph for Watched<'_, '_, '_> {
    type Value = Value;

    fn map(&mut self, x: Value, site: Site) -> Value {
        if input_site(site) == site {
            self.seen.push((site, self.tape.values(x).to_vec()));
        }
        self.tape.map(x, site)
    }

    fn embed(&mut self) -> Value {
        self.tape.embed()
    }

    fn norm(&mut self, x: Value, site: NormSite) -> Value {
        self.tape.norm(x, site)
    }

    fn rotate(&mut self, x: Value, layer: usize) -> Value {
        self.tape.rotate(x, layer)
    }

    fn attend(&mut self, queries: Value, keys: Value, values: Value, layer: usize) -> Value {
        self.tape.attend(queries, keys, values, layer)
    }

    fn gate(&mut self, activation: Activation, gate: Value, up: Value) -> Value {
        self.tape.gate(activation, gate, up)
    }

    fn activate(&mut self, activation: Activation, x: Value) -> Value {
        self.tape.activate(activation, x)
    }

    fn bottleneck(&mut self, x: Value, site: BlockSite, input: BottleneckInput) -> Value {
        self.tape.bottleneck(x, site, input)
    }

    fn add(&mut self, residual: Value, x: Value) -> Value {
        self.tape.add(residual, x)
    }
}
