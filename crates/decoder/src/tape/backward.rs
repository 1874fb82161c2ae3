//! The way back: operations in reverse, gradients of inputs from those of results.

use std::rc::Rc;

use rootstock_kernels::training::{
    ActivationGradient, AttentionGradients, AttentionInputs, AttentionShape, NormBackward, activate_backward,
    attend_segments_backward, column_sums, gated_backward, norm_backward,
};
use rootstock_kernels::{Gemm, Right, View, gemm};
use rootstock_model::{Activation, NormSite, Site};

use super::forward::{kernel, weights_of};
use super::{Bottleneck, Map, Mark, Op, Tape, Value};
use crate::Rows;

impl Tape<'_, '_> {
    /// Goes back to `mark`: gradients of parameters are added to, those of values from before the mark are found, and what
    /// lies behind it is dropped.
    pub fn backward_to(&mut self, mark: Mark) {
        while self.ops.len() > mark.ops {
            let Some(op) = self.ops.pop() else { return };
            let out = op.out();
            let Some(gradient) = self.take_gradient(out) else {
                continue;
            };
            self.back(op, gradient);
            self.release(out);
        }
        self.truncate(mark);
    }

    fn back(&mut self, op: Op, gradient: Rc<Vec<f32>>) {
        match op {
            Op::Embed { .. } => self.embed_backward(&gradient),
            Op::Norm { x, site, .. } => self.norm_op_backward(x, site, &gradient),
            Op::Map(map) => return self.map_backward(map, gradient),
            Op::Rotate { x, layer, .. } => {
                let mut gradient = self.owned(gradient);
                self.rotate_values(layer, true, &mut gradient);
                return self.pass_gradient(x, Rc::new(gradient));
            }
            Op::Attend { inputs, layer, .. } => self.attend_backward(inputs, layer, &gradient),
            Op::Gate {
                gate, up, activation, ..
            } => self.activation_backward((gate, up), activation, &gradient),
            Op::Bottleneck(bottleneck) => return self.bottleneck_backward(bottleneck, gradient),
            Op::Add { residual, x, .. } => {
                self.pass_gradient(residual, Rc::clone(&gradient));
                return self.pass_gradient(x, gradient);
            }
        }
        self.machine.memory.give_shared(gradient);
    }

    fn embed_backward(&mut self, gradient: &[f32]) {
        let hidden = self.machine.model.spec().hidden_size;
        let scale = self.machine.model.spec().embedding_scale;
        let (trained, parameters) = (self.machine.trained, &mut *self.machine.parameters);
        let add = |table: &mut [f32], at: usize, row: &[f32], factor: f32| {
            let to = &mut table[at * hidden..][..hidden];
            to.iter_mut().zip(row).for_each(|(to, value)| *to += value * factor);
        };
        if let Some(table) = trained.weight(Site::Embedding) {
            let table = parameters.gradient_of(table);
            let rows = self.batch.tokens().iter().zip(gradient.chunks_exact(hidden));
            rows.for_each(|(&token, row)| add(table, token as usize, row, scale));
        }
        if let Some(id) = trained.positions {
            let table = &mut parameters.get_mut(id).gradient;
            let rows = self.batch.positions().iter().zip(gradient.chunks_exact(hidden));
            rows.for_each(|(&position, row)| add(table, position, row, 1.0));
        }
    }

    fn norm_op_backward(&mut self, x: Value, site: NormSite, gradient: &[f32]) {
        self.restore(x);
        let (mut to_x, _) = self.gradient_so_far(x, true);
        let machine = &mut *self.machine;
        let weights = weights_of(machine.model, machine.trained, machine.parameters, site);
        let training = machine.trained.norms.get(&site);
        let (mut of_weight, mut of_bias) = (vec![0.0; weights.weight.len()], vec![0.0; weights.bias.len()]);
        let backward = NormBackward {
            x: &self.nodes[x.0].values,
            gradient,
            to_x: &mut to_x,
            to_weights: training.map(|_| (of_weight.as_mut_slice(), of_bias.as_mut_slice())),
        };
        norm_backward(machine.context, machine.model.formula(), weights, backward);
        if let Some(training) = training {
            let found = [(Some(training.weight), of_weight), (training.bias, of_bias)];
            for (id, of) in found.into_iter().filter_map(|(id, of)| Some((id?, of))) {
                let to = &mut machine.parameters.get_mut(id).gradient;
                to.iter_mut().zip(&of).for_each(|(to, of)| *to += of);
            }
        }
        self.put_gradient(x, to_x);
    }

    /// Keeps a gradient that already holds what was found before.
    fn put_gradient(&mut self, value: Value, gradient: Vec<f32>) {
        match self.needs(value) {
            true => self.nodes[value.0].gradient = Some(Rc::new(gradient)),
            false => self.machine.memory.give(gradient),
        }
    }

    fn map_backward(&mut self, map: Map, gradient: Rc<Vec<f32>>) {
        let Map {
            x,
            site,
            hidden,
            scaled,
            ..
        } = map;
        let trained = self.machine.trained;
        let training = trained.sites.get(&site);
        let weight = trained.weight(site);
        let mut gradient = gradient;
        if let Some(bias) = training.and_then(|training| training.bias.as_ref()) {
            column_sums(&gradient, None, self.machine.parameters.gradient_of(bias));
        }
        if let Some(scaled) = scaled {
            let mut before = self.owned(gradient);
            self.magnitude_backward(site, &scaled, &mut before);
            gradient = Rc::new(before);
        }
        if training.is_some_and(|training| training.pair.is_some() || training.weight.is_some()) {
            self.restore(x);
        }
        let width = self.nodes[x.0].width;
        if let Some(weight) = weight {
            self.weight_backward(x, weight, &gradient);
        }
        let mut to_x = self.needs(x).then(|| self.gradient_so_far(x, false));
        if let Some((to_x, accumulate)) = &mut to_x {
            let machine = &mut *self.machine;
            let right = match weight {
                Some(weight) => Right::Dense(View::new(machine.parameters.rows(weight), width)),
                None => Right::Backward(machine.model.matrix(site)),
            };
            let product = Gemm {
                accumulate: *accumulate,
                arithmetic: self.pass.arithmetic,
                ..Gemm::new(View::new(&gradient, right.depth()), right)
            };
            gemm(machine.context, &product, to_x);
        }
        if let Some(hidden) = hidden {
            let to_x = to_x.as_mut().map(|(to_x, _)| to_x.as_mut_slice());
            self.pair_backward((x, site), hidden, &gradient, to_x);
        }
        if let Some((to_x, _)) = to_x {
            self.put_gradient(x, to_x);
        }
        self.machine.memory.give_shared(gradient);
    }

    /// Adds to the gradient of a trained weight.
    fn weight_backward(&mut self, x: Value, weight: &Rows, gradient: &[f32]) {
        let machine = &mut *self.machine;
        let node = &self.nodes[x.0];
        let product = Gemm {
            accumulate: true,
            arithmetic: self.pass.arithmetic,
            ..Gemm::new(
                View::new(gradient, weight.rows.len()).transposed(),
                Right::Dense(View::new(&node.values, node.width)),
            )
        };
        gemm(machine.context, &product, machine.parameters.gradient_of(weight));
    }

    fn attend_backward(&mut self, inputs: [Value; 3], layer: usize, gradient: &[f32]) {
        inputs.into_iter().for_each(|input| self.restore(input));
        let machine = &mut *self.machine;
        let heads = machine.model.heads(layer);
        let shape = AttentionShape {
            heads: &heads,
            segments: self.batch.segments(),
        };
        let [mut queries, mut keys, mut values] =
            inputs.map(|input| machine.memory.take(self.nodes[input.0].values.len()));
        let to = AttentionGradients {
            queries: &mut queries,
            keys: &mut keys,
            values: &mut values,
        };
        let of = |input: Value| self.nodes[input.0].values.as_slice();
        let from = AttentionInputs {
            queries: of(inputs[0]),
            keys: of(inputs[1]),
            values: of(inputs[2]),
        };
        attend_segments_backward(machine.context, shape, from, gradient, to);
        for (input, found) in inputs.into_iter().zip([queries, keys, values]) {
            self.pass_gradient(input, Rc::new(found));
        }
    }

    fn activation_backward(&mut self, (gate, up): (Value, Option<Value>), activation: Activation, gradient: &[f32]) {
        self.restore(gate);
        up.into_iter().for_each(|up| self.restore(up));
        let machine = &mut *self.machine;
        let kind = kernel(activation);
        let of_gate = &self.nodes[gate.0].values;
        let mut to_gate = machine.memory.take(of_gate.len());
        let Some(up) = up else {
            activate_backward(machine.context, kind, of_gate, gradient, &mut to_gate);
            return self.pass_gradient(gate, Rc::new(to_gate));
        };
        let of_up = &self.nodes[up.0].values;
        let mut to_up = machine.memory.take(of_up.len());
        let to = ActivationGradient {
            gate: &mut to_gate,
            up: &mut to_up,
        };
        gated_backward(machine.context, kind, (of_gate, of_up), gradient, to);
        self.pass_gradient(gate, Rc::new(to_gate));
        self.pass_gradient(up, Rc::new(to_up));
    }
}

impl Op {
    /// What the operation gave.
    pub(super) fn out(&self) -> Value {
        match self {
            Self::Embed { out }
            | Self::Norm { out, .. }
            | Self::Map(Map { out, .. })
            | Self::Rotate { out, .. }
            | Self::Attend { out, .. }
            | Self::Gate { out, .. }
            | Self::Bottleneck(Bottleneck { out, .. })
            | Self::Add { out, .. } => *out,
        }
    }
}
