//! The operations of [`Graph`], computed and written down.

use rootstock_kernels::training::{
    AttentionInputs, AttentionShape, Rotation, activate, add_rows, attend_segments, gated, norm_rows, rotate_rows,
};
use rootstock_kernels::{self as kernels, Gemm, NormWeights, Right, View, gemm};
use rootstock_model::adapter::BottleneckInput;
use rootstock_model::{Activation, BlockSite, NormSite, Site};

use super::{Map, Op, Tape, Value};
use crate::frozen::norm_weights;
use crate::{Batch, Graph, Parameters};

impl Graph for Tape<'_, '_> {
    type Value = Value;

    fn embed(&mut self) -> Value {
        let model = self.machine.model;
        let hidden = model.spec().hidden_size;
        let trained = self.machine.trained.weight(Site::Embedding);
        let mut rows = self.machine.memory.take(self.batch.tokens().len() * hidden);
        for (&token, row) in self.batch.tokens().iter().zip(rows.chunks_exact_mut(hidden)) {
            match trained {
                Some(table) => {
                    let table = self.machine.parameters.rows(table);
                    row.copy_from_slice(&table[token as usize * hidden..][..hidden]);
                }
                None => model.matrix(Site::Embedding).dequantize_row(token as usize, row),
            }
            row.iter_mut().for_each(|value| *value *= model.spec().embedding_scale);
        }
        let positions = self.machine.trained.positions;
        match (positions, model.positions()) {
            (Some(id), _) => {
                let table = &self.machine.parameters.get(id).values;
                add_positions(
                    self.batch,
                    hidden,
                    |position, row| row.copy_from_slice(&table[position * hidden..][..hidden]),
                    &mut rows,
                );
            }
            (None, Some(table)) => add_positions(
                self.batch,
                hidden,
                |position, row| table.dequantize_row(position, row),
                &mut rows,
            ),
            (None, None) => {}
        }
        let needs = trained.is_some() || positions.is_some();
        let out = self.push(rows, hidden, needs);
        if needs {
            self.ops.push(Op::Embed { out });
        }
        out
    }

    fn norm(&mut self, x: Value, site: NormSite) -> Value {
        let to = self.normed(x, site);
        let needs = self.needs(x) || self.machine.trained.norms.contains_key(&site);
        let out = self.push(to, self.nodes[x.0].width, needs);
        if needs {
            self.ops.push(Op::Norm { x, out, site });
        }
        out
    }

    fn map(&mut self, x: Value, site: Site) -> Value {
        let trained = self.machine.trained;
        let training = trained.sites.get(&site);
        let machine = &mut *self.machine;
        let (inputs, outputs) = machine
            .model
            .spec()
            .shape(site)
            .expect("the walk visits maps of the architecture");
        let from = View::new(&self.nodes[x.0].values, inputs);
        let mut to = machine.memory.take(from.rows * outputs);
        let product = match trained.weight(site) {
            Some(weight) => {
                let weight = View::new(machine.parameters.rows(weight), inputs);
                Gemm::new(from, Right::Dense(weight.transposed()))
            }
            None => Gemm::new(from, Right::Forward(machine.model.matrix(site))),
        };
        let arithmetic = self.pass.arithmetic;
        gemm(machine.context, &Gemm { arithmetic, ..product }, &mut to);
        let hidden = self.add_pair(x, site, &mut to);
        let scaled = self.scale_by_magnitude(site, &mut to);
        let machine = &*self.machine;
        let bias = match training.and_then(|training| training.bias.as_ref()) {
            Some(bias) => Some(machine.parameters.rows(bias)),
            None => machine.model.bias(site),
        };
        if let Some(bias) = bias {
            for row in to.chunks_exact_mut(outputs) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let needs = self.needs(x) || training.is_some();
        let out = self.push(to, outputs, needs);
        if needs {
            self.ops.push(Op::Map(Map {
                x,
                out,
                site,
                hidden,
                scaled,
            }));
        }
        out
    }

    fn rotate(&mut self, x: Value, layer: usize) -> Value {
        let (mut values, width, needs) = self.consume(x);
        self.rotate_values(layer, false, &mut values);
        let out = self.push(values, width, needs);
        if needs {
            self.ops.push(Op::Rotate { x, out, layer });
        }
        out
    }

    fn attend(&mut self, queries: Value, keys: Value, values: Value, layer: usize) -> Value {
        let inputs = [queries, keys, values];
        let machine = &mut *self.machine;
        let (heads, width) = (machine.model.heads(layer), self.nodes[queries.0].width);
        let mut to = machine.memory.take(self.nodes[queries.0].values.len());
        let shape = AttentionShape {
            heads: &heads,
            segments: self.batch.segments(),
        };
        let [queries, keys, values] = inputs.map(|input| self.nodes[input.0].values.as_slice());
        attend_segments(
            machine.context,
            shape,
            AttentionInputs { queries, keys, values },
            &mut to,
        );
        let needs = inputs.into_iter().any(|input| self.needs(input));
        let out = self.push(to, width, needs);
        if needs {
            self.ops.push(Op::Attend { inputs, out, layer });
        }
        out
    }

    fn gate(&mut self, activation: Activation, gate: Value, up: Value) -> Value {
        self.activation(activation, gate, Some(up))
    }

    fn activate(&mut self, activation: Activation, x: Value) -> Value {
        self.activation(activation, x, None)
    }

    fn bottleneck(&mut self, x: Value, site: BlockSite, input: BottleneckInput) -> Value {
        self.add_bottleneck(x, site, input)
    }

    fn add(&mut self, residual: Value, x: Value) -> Value {
        let (mut sum, width, needs) = self.consume(x);
        add_rows(self.machine.context, &self.nodes[residual.0].values, &mut sum);
        let needs = needs || self.needs(residual);
        let out = self.push(sum, width, needs);
        if needs {
            self.ops.push(Op::Add { residual, x, out });
        }
        out
    }
}

impl Tape<'_, '_> {
    /// The elements of a value that is not used again, its width, and whether it needs a gradient.
    fn consume(&mut self, x: Value) -> (Vec<f32>, usize, bool) {
        let node = &mut self.nodes[x.0];
        (std::mem::take(&mut node.values), node.width, node.needs)
    }

    pub(super) fn rotate_values(&mut self, layer: usize, back: bool, values: &mut [f32]) {
        let machine = &mut *self.machine;
        let Some(table) = machine.model.rotary(layer) else {
            return;
        };
        let rotation = Rotation {
            table,
            positions: self.batch.positions(),
            head_dim: machine.model.spec().layers[layer].attention.head_dim,
            back,
        };
        rotate_rows(machine.context, rotation, values);
    }

    fn activation(&mut self, activation: Activation, gate: Value, up: Option<Value>) -> Value {
        let to = self.activated(activation, gate, up);
        let needs = self.needs(gate) || up.is_some_and(|up| self.needs(up));
        let out = self.push(to, self.nodes[gate.0].width, needs);
        if needs {
            self.ops.push(Op::Gate {
                gate,
                up,
                out,
                activation,
            });
        }
        out
    }

    pub(super) fn normed(&mut self, x: Value, site: NormSite) -> Vec<f32> {
        let machine = &mut *self.machine;
        let from = &self.nodes[x.0].values;
        let mut to = machine.memory.take(from.len());
        let weights = weights_of(machine.model, machine.trained, machine.parameters, site);
        norm_rows(machine.context, machine.model.formula(), weights, from, &mut to);
        to
    }

    pub(super) fn activated(&mut self, activation: Activation, gate: Value, up: Option<Value>) -> Vec<f32> {
        let machine = &mut *self.machine;
        let from = &self.nodes[gate.0].values;
        let mut to = machine.memory.take(from.len());
        let activation = kernel(activation);
        match up {
            Some(up) => gated(machine.context, activation, from, &self.nodes[up.0].values, &mut to),
            None => activate(machine.context, activation, from, &mut to),
        }
        to
    }
}

/// The activation as the kernels call it.
pub(super) fn kernel(activation: Activation) -> kernels::Activation {
    match activation {
        Activation::Silu => kernels::Activation::Silu,
        Activation::GeluTanh => kernels::Activation::GeluTanh,
        Activation::Relu => kernels::Activation::Relu,
    }
}

/// Weights of a normalisation, trained or frozen.
pub(super) fn weights_of<'a>(
    model: &'a crate::FrozenModel,
    trained: &crate::Trained,
    parameters: &'a Parameters,
    site: NormSite,
) -> NormWeights<'a> {
    let Some(training) = trained.norms.get(&site) else {
        return norm_weights(model.norm(site));
    };
    let values = |id| parameters.get(id).values.as_slice();
    NormWeights {
        weight: values(training.weight),
        bias: training.bias.map_or(&[], values),
    }
}

/// Adds to every row what `read` gives for its position.
fn add_positions(batch: &Batch, hidden: usize, read: impl Fn(usize, &mut [f32]), rows: &mut [f32]) {
    let mut learned = vec![0.0; hidden];
    for (&position, row) in batch.positions().iter().zip(rows.chunks_exact_mut(hidden)) {
        read(position, &mut learned);
        row.iter_mut()
            .zip(&learned)
            .for_each(|(value, learned)| *value += learned);
    }
}
