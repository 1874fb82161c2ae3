//! Forward and backward on our own kernels: what was computed is written down and read backwards.
//!
//! A value lives until the way back has passed the operation that made it, put away where it is not read before that
//! (`storage`); gradients live until it has passed the one they enter. Both return their memory to a store, so that a step after the first allocates next to nothing. Operations whose inputs
//! depend on nothing trained are computed and not written down: below the first trained layer there is no way back.

mod backward;
mod bottleneck;
mod forward;
mod magnitude;
mod memory;
mod nodes;
mod pair;
mod storage;

use rootstock_kernels::{Arithmetic, Context};
use rootstock_model::{Activation, NormSite, Site};

use self::bottleneck::Bottleneck;
pub use self::magnitude::WeightNorms;
pub use self::memory::Memory;
use self::nodes::Node;
pub use self::nodes::Value;
pub use self::pair::dropout_key;
use crate::{Batch, FrozenModel, Parameters, Trained};

/// What a tape computes with.
pub struct Machine<'a> {
    /// Weights that do not change.
    pub model: &'a FrozenModel,
    /// What is trained where.
    pub trained: &'a Trained,
    /// The trained tensors, and their gradients.
    pub parameters: &'a mut Parameters,
    /// Threads and instructions.
    pub context: &'a mut Context,
    /// Where values live.
    pub memory: &'a mut Memory,
    /// Lengths of frozen weights, for magnitudes.
    pub norms: &'a mut WeightNorms,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Of products with frozen weights.
    pub arithmetic: Arithmetic,
    /// Decides what is dropped; `None` drops nothing.
    pub dropout_key: Option<u64>,
}

/// One pass over a batch.
pub struct Tape<'a, 'm> {
    machine: &'a mut Machine<'m>,
    batch: &'a Batch,
    pass: Pass,
    nodes: Vec<Node>,
    ops: Vec<Op>,
}

/// A place in a tape.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    nodes: usize,
    ops: usize,
}

/// What was computed, and what the way back needs of it.
enum Op {
    Embed {
        out: Value,
    },
    Norm {
        x: Value,
        out: Value,
        site: NormSite,
    },
    Map(Map),
    Rotate {
        x: Value,
        out: Value,
        layer: usize,
    },
    Attend {
        inputs: [Value; 3],
        out: Value,
        layer: usize,
    },
    Gate {
        gate: Value,
        up: Option<Value>,
        out: Value,
        activation: Activation,
    },
    Bottleneck(Bottleneck),
    Add {
        residual: Value,
        x: Value,
        out: Value,
    },
}

/// A map that was computed.
struct Map {
    x: Value,
    out: Value,
    site: Site,
    /// What A made of the rows, `[rows, rank]`.
    hidden: Option<Value>,
    /// Where a magnitude is trained: its factors, and the rows before them.
    scaled: Option<Scaled>,
}

struct Scaled {
    /// Length of each output's weights.
    norms: Vec<f32>,
    before: Value,
}

impl<'a, 'm> Tape<'a, 'm> {
    /// An empty tape over a batch.
    pub fn new(machine: &'a mut Machine<'m>, batch: &'a Batch, pass: Pass) -> Self {
        Self {
            machine,
            batch,
            pass,
            nodes: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// Threads and instructions.
    pub fn context(&mut self) -> &mut Context {
        self.machine.context
    }

    /// So many zeros.
    pub fn zeros(&mut self, len: usize) -> Vec<f32> {
        self.machine.memory.zeros(len)
    }

    /// Takes memory back.
    pub fn give(&mut self, values: Vec<f32>) {
        self.machine.memory.give(values);
    }

    /// The end of the tape.
    pub fn mark(&self) -> Mark {
        Mark {
            nodes: self.nodes.len(),
            ops: self.ops.len(),
        }
    }

    /// Forgets everything since `mark` but the elements of `kept`, which become a value without a history.
    pub fn forget(&mut self, mark: Mark, kept: Value) -> Value {
        let node = &mut self.nodes[kept.0];
        let (width, needs) = (node.width, node.needs);
        let values = std::mem::take(&mut node.values);
        self.truncate(mark);
        self.push(values, width, needs)
    }

    /// Drops everything since `mark`.
    pub fn truncate(&mut self, mark: Mark) {
        self.ops.truncate(mark.ops);
        for node in self.nodes.drain(mark.nodes..) {
            self.machine.memory.give(node.values);
            self.machine.memory.give_halves(node.rounded);
            if let Some(gradient) = node.gradient {
                self.machine.memory.give_shared(gradient);
            }
        }
    }
}

impl Drop for Tape<'_, '_> {
    fn drop(&mut self) {
        self.truncate(Mark { nodes: 0, ops: 0 });
    }
}
