//! Bottlenecks after a block, forward and backward.

use std::rc::Rc;

use rootstock_kernels::training::{activate, activate_backward, column_sums};
use rootstock_kernels::{Context, Gemm, Right, View, gemm};
use rootstock_model::BlockSite;
use rootstock_model::adapter::BottleneckInput;

use super::forward::kernel;
use super::{Op, Tape, Value};
use crate::{BottleneckTraining, ParameterId, Parameters};

/// Activations are computed so many elements at a time.
const TOGETHER: usize = 16;

/// A bottleneck that was computed.
pub(super) struct Bottleneck {
    pub x: Value,
    pub out: Value,
    pub site: BlockSite,
    /// What enters the activation, `[rows, width]`, and elements of no meaning up to a whole number of vectors.
    pub before: Value,
}

/// The shape of what lies between the maps.
#[derive(Clone, Copy)]
struct Inner {
    rows: usize,
    width: usize,
}

impl Inner {
    fn view(self, values: &[f32]) -> View<'_> {
        View::new(&values[..self.rows * self.width], self.width)
    }

    fn padded(self) -> usize {
        (self.rows * self.width).next_multiple_of(TOGETHER)
    }
}

impl Tape<'_, '_> {
    fn bottleneck_at(&self, site: BlockSite) -> Option<BottleneckTraining> {
        self.machine.trained.bottlenecks.get(&site).copied()
    }

    /// `x + scale * (up activation(down x + down_bias) + up_bias)`
    pub(super) fn add_bottleneck(&mut self, x: Value, site: BlockSite, input: BottleneckInput) -> Value {
        let Some(training) = self.bottleneck_at(site).filter(|training| training.input == input) else {
            return x;
        };
        let (machine, width) = (&mut *self.machine, self.nodes[x.0].width);
        let rows = View::new(&self.nodes[x.0].values, width);
        let (parameters, context) = (&*machine.parameters, &mut *machine.context);
        let down = matrix(parameters, training.down);
        let inner = Inner {
            rows: rows.rows,
            width: down.rows,
        };
        let [mut before, mut after] = [(); 2].map(|()| machine.memory.take(inner.padded()));
        let used = &mut before[..inner.rows * inner.width];
        gemm(context, &Gemm::new(rows, Right::Dense(down.transposed())), used);
        add_bias(parameters, training.down_bias, 1.0, used);
        activate(context, kernel(training.activation), &before, &mut after);
        let mut out = machine.memory.copy(&self.nodes[x.0].values);
        let product = Gemm {
            scale: training.scale,
            accumulate: true,
            ..Gemm::new(
                inner.view(&after),
                Right::Dense(matrix(parameters, training.up).transposed()),
            )
        };
        gemm(context, &product, &mut out);
        add_bias(parameters, training.up_bias, training.scale, &mut out);
        machine.memory.give(after);
        let before = self.push(before, TOGETHER, false);
        let out = self.push(out, width, true);
        self.ops.push(Op::Bottleneck(Bottleneck { x, out, site, before }));
        out
    }

    /// Adds to the gradients of the maps and biases, and finds that of the input.
    pub(super) fn bottleneck_backward(&mut self, op: Bottleneck, gradient: Rc<Vec<f32>>) {
        let Bottleneck { x, site, before, .. } = op;
        let Some(training) = self.bottleneck_at(site) else {
            return;
        };
        self.restore(x);
        self.restore(before);
        let before = self.take_values(before);
        let inner = Inner {
            rows: gradient.len() / self.nodes[x.0].width,
            width: self.machine.parameters.get(training.down).shape[0],
        };
        let of_before = self.maps_backward(training, x, (inner, &before), &gradient);
        if self.needs(x) {
            let mut to_x = self.owned(gradient);
            let machine = &mut *self.machine;
            let product = Gemm {
                accumulate: true,
                ..Gemm::new(
                    inner.view(&of_before),
                    Right::Dense(matrix(machine.parameters, training.down)),
                )
            };
            gemm(machine.context, &product, &mut to_x);
            self.pass_gradient(x, Rc::new(to_x));
        } else {
            self.machine.memory.give_shared(gradient);
        }
        [before, of_before]
            .into_iter()
            .for_each(|values| self.machine.memory.give(values));
    }

    /// The gradients of what is trained; gives that of what entered the activation.
    fn maps_backward(
        &mut self,
        training: BottleneckTraining,
        x: Value,
        (inner, before): (Inner, &[f32]),
        gradient: &[f32],
    ) -> Vec<f32> {
        let (machine, hidden) = (&mut *self.machine, self.nodes[x.0].width);
        let [mut after, mut of_after, mut of_before] = [(); 3].map(|()| machine.memory.take(inner.padded()));
        let (context, parameters) = (&mut *machine.context, &mut *machine.parameters);
        let (kind, used) = (kernel(training.activation), inner.rows * inner.width);
        activate(context, kind, before, &mut after);
        let of_out = View::new(gradient, hidden);
        let through = Gemm {
            scale: training.scale,
            ..Gemm::new(of_out, Right::Dense(matrix(parameters, training.up)))
        };
        gemm(context, &through, &mut of_after[..used]);
        activate_backward(context, kind, before, &of_after, &mut of_before);
        let rows = View::new(&self.nodes[x.0].values, hidden);
        let (of_up, of_down) = ((of_out, inner.view(&after)), (inner.view(&of_before), rows));
        add_gradient(context, parameters, training.up, training.scale, of_up);
        add_gradient(context, parameters, training.down, 1.0, of_down);
        add_bias_gradient(parameters, training.up_bias, training.scale, gradient);
        add_bias_gradient(parameters, training.down_bias, 1.0, &of_before[..used]);
        [after, of_after]
            .into_iter()
            .for_each(|values| machine.memory.give(values));
        of_before
    }
}

fn matrix(parameters: &Parameters, id: ParameterId) -> View<'_> {
    let parameter = parameters.get(id);
    View::new(&parameter.values, parameter.width())
}

fn add_bias(parameters: &Parameters, id: ParameterId, scale: f32, rows: &mut [f32]) {
    let bias = &parameters.get(id).values;
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut()
            .zip(bias)
            .for_each(|(value, bias)| *value += scale * bias);
    }
}

/// Adds `scale * outputs^T inputs` to the gradient of a map from its rows of gradients and of inputs.
fn add_gradient(
    context: &mut Context,
    parameters: &mut Parameters,
    id: ParameterId,
    scale: f32,
    (outputs, inputs): (View<'_>, View<'_>),
) {
    let product = Gemm {
        scale,
        accumulate: true,
        ..Gemm::new(outputs.transposed(), Right::Dense(inputs))
    };
    gemm(context, &product, &mut parameters.get_mut(id).gradient);
}

fn add_bias_gradient(parameters: &mut Parameters, id: ParameterId, scale: f32, rows: &[f32]) {
    let to = &mut parameters.get_mut(id).gradient;
    let mut sums = vec![0.0; to.len()];
    column_sums(rows, None, &mut sums);
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum);
}
