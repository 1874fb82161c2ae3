//! Low-rank pairs beside a map, forward and backward.

use rootstock_kernels::training::{add_rows, dropout};
use rootstock_kernels::{Arithmetic, Gemm, Right, View, gemm};
use rootstock_model::{Projection, Site};

use super::{Tape, Value};
use crate::{LowRank, ParameterId, Parameters};

impl Tape<'_, '_> {
    fn pair(&self, site: Site) -> Option<LowRank> {
        self.machine.trained.sites.get(&site)?.pair.clone()
    }

    /// Products in bfloat16 would round away how far a pair has come from its beginning.
    fn arithmetic(&self, pair: &LowRank) -> Arithmetic {
        match initial(self.machine.parameters, pair) {
            None => self.pass.arithmetic,
            Some(_) => Arithmetic::F32,
        }
    }

    /// Adds `scale * B A x` to the rows of a map's outputs, and gives `A x` for the way back.
    pub(super) fn add_pair(&mut self, x: Value, site: Site, to: &mut [f32]) -> Option<Value> {
        let pair = self.pair(site)?;
        let dropped = self.dropped(&pair, site, x);
        let arithmetic = self.arithmetic(&pair);
        let machine = &mut *self.machine;
        let (a, inputs) = matrix(machine.parameters, pair.a);
        let rank = a.rows;
        let rows = View::new(dropped.as_ref().unwrap_or(&self.nodes[x.0].values), inputs);
        let mut hidden = machine.memory.take(rows.rows * rank);
        let through_a = Gemm {
            arithmetic,
            ..Gemm::new(rows, Right::Dense(a.transposed()))
        };
        gemm(machine.context, &through_a, &mut hidden);
        let b = outputs(machine.parameters, &pair);
        let through_b = Gemm {
            scale: pair.scale,
            accumulate: true,
            arithmetic,
            ..Gemm::new(View::new(&hidden, rank), Right::Dense(b.transposed()))
        };
        gemm(machine.context, &through_b, to);
        dropped.into_iter().for_each(|values| machine.memory.give(values));
        self.subtract_initial(&pair, x, to);
        Some(self.push(hidden, rank, false))
    }

    /// Subtracts what the pair gave at its beginning, where only the difference takes effect.
    fn subtract_initial(&mut self, pair: &LowRank, x: Value, to: &mut [f32]) {
        let machine = &mut *self.machine;
        let Some((a, b)) = initial(machine.parameters, pair) else {
            return;
        };
        let rows = View::new(&self.nodes[x.0].values, a.columns);
        let mut hidden = machine.memory.take(rows.rows * a.rows);
        gemm(
            machine.context,
            &Gemm::new(rows, Right::Dense(a.transposed())),
            &mut hidden,
        );
        let product = Gemm {
            scale: -pair.scale,
            accumulate: true,
            ..Gemm::new(View::new(&hidden, a.rows), Right::Dense(b.transposed()))
        };
        gemm(machine.context, &product, to);
        machine.memory.give(hidden);
    }

    /// The rows of `x` without those elements that the pair does not see; `None` where it sees all.
    fn dropped(&mut self, pair: &LowRank, site: Site, x: Value) -> Option<Vec<f32>> {
        let key = self.pass.dropout_key.filter(|_| pair.dropout > 0.0)?;
        let mut values = self.machine.memory.copy(&self.nodes[x.0].values);
        dropout(self.machine.context, dropout_key(key, site), pair.dropout, &mut values);
        Some(values)
    }

    /// Adds to the gradients of A and B, and to that of the map's input if that is asked for.
    pub(super) fn pair_backward(
        &mut self,
        (x, site): (Value, Site),
        hidden: Value,
        gradient: &[f32],
        to_x: Option<&mut [f32]>,
    ) {
        let Some(pair) = self.pair(site) else { return };
        self.restore(hidden);
        let hidden = self.take_values(hidden);
        self.b_backward(&pair, &hidden, gradient);
        let arithmetic = self.arithmetic(&pair);
        let machine = &mut *self.machine;
        let mut of_hidden = machine.memory.take(hidden.len());
        machine.memory.give(hidden);
        let b = outputs(machine.parameters, &pair);
        let back = Gemm {
            scale: pair.scale,
            arithmetic,
            ..Gemm::new(View::new(gradient, b.rows), Right::Dense(b))
        };
        gemm(machine.context, &back, &mut of_hidden);
        self.a_backward(&pair, (x, site), &of_hidden);
        if let Some(to_x) = to_x {
            self.pair_input_backward(&pair, site, &of_hidden, to_x);
            self.initial_backward(&pair, gradient, of_hidden.as_mut_slice(), to_x);
        }
        self.machine.memory.give(of_hidden);
    }

    /// Adds to the gradient of B. The product is computed lying down, `[rank, outputs]`: the long rows of `gradient` are read
    /// as they are.
    fn b_backward(&mut self, pair: &LowRank, hidden: &[f32], gradient: &[f32]) {
        let arithmetic = self.arithmetic(pair);
        let machine = &mut *self.machine;
        let (rank, width) = (machine.parameters.get(pair.a).shape[0], pair.b.rows.len());
        let mut lying = machine.memory.take(rank * width);
        let product = Gemm {
            scale: pair.scale,
            arithmetic,
            ..Gemm::new(
                View::new(hidden, rank).transposed(),
                Right::Dense(View::new(gradient, width)),
            )
        };
        gemm(machine.context, &product, &mut lying);
        let to = machine.parameters.gradient_of(&pair.b);
        for (r, row) in lying.chunks_exact(width).enumerate() {
            let column = to[r..].iter_mut().step_by(rank);
            column.zip(row).for_each(|(to, value)| *to += value);
        }
        machine.memory.give(lying);
    }

    /// Adds to the gradient of A.
    fn a_backward(&mut self, pair: &LowRank, (x, site): (Value, Site), of_hidden: &[f32]) {
        let dropped = self.dropped(pair, site, x);
        let arithmetic = self.arithmetic(pair);
        let machine = &mut *self.machine;
        let (a, inputs) = matrix(machine.parameters, pair.a);
        let rank = a.rows;
        let rows = dropped.as_ref().unwrap_or(&self.nodes[x.0].values);
        let product = Gemm {
            accumulate: true,
            arithmetic,
            ..Gemm::new(
                View::new(of_hidden, rank).transposed(),
                Right::Dense(View::new(rows, inputs)),
            )
        };
        gemm(
            machine.context,
            &product,
            &mut machine.parameters.get_mut(pair.a).gradient,
        );
        dropped.into_iter().for_each(|values| machine.memory.give(values));
    }

    /// The gradient that reaches the map's input through the pair's beginning. `of_hidden` is overwritten.
    fn initial_backward(&mut self, pair: &LowRank, gradient: &[f32], of_hidden: &mut [f32], to_x: &mut [f32]) {
        let machine = &mut *self.machine;
        let Some((a, b)) = initial(machine.parameters, pair) else {
            return;
        };
        let back = Gemm {
            scale: -pair.scale,
            ..Gemm::new(View::new(gradient, b.rows), Right::Dense(b))
        };
        gemm(machine.context, &back, of_hidden);
        let product = Gemm {
            accumulate: true,
            ..Gemm::new(View::new(of_hidden, a.rows), Right::Dense(a))
        };
        gemm(machine.context, &product, to_x);
    }

    /// The gradient that reaches the map's input through the pair.
    fn pair_input_backward(&mut self, pair: &LowRank, site: Site, of_hidden: &[f32], to_x: &mut [f32]) {
        let arithmetic = self.arithmetic(pair);
        let machine = &mut *self.machine;
        let (a, _) = matrix(machine.parameters, pair.a);
        let product = Gemm {
            arithmetic,
            ..Gemm::new(View::new(of_hidden, a.rows), Right::Dense(a))
        };
        let key = self.pass.dropout_key.filter(|_| pair.dropout > 0.0);
        let Some(key) = key else {
            return gemm(
                machine.context,
                &Gemm {
                    accumulate: true,
                    ..product
                },
                to_x,
            );
        };
        let mut through = machine.memory.take(to_x.len());
        gemm(machine.context, &product, &mut through);
        dropout(machine.context, dropout_key(key, site), pair.dropout, &mut through);
        add_rows(machine.context, &through, to_x);
        machine.memory.give(through);
    }
}

/// A parameter as a matrix, and its width.
fn matrix(parameters: &Parameters, id: ParameterId) -> (View<'_>, usize) {
    let parameter = parameters.get(id);
    let width = parameter.shape[1];
    (View::new(&parameter.values, width), width)
}

/// The rows of B that are a site's outputs.
fn outputs<'a>(parameters: &'a Parameters, pair: &LowRank) -> View<'a> {
    View::new(parameters.rows(&pair.b), parameters.get(pair.b.id).width())
}

/// A and a site's rows of B as they began, where they are subtracted.
fn initial<'a>(parameters: &'a Parameters, pair: &LowRank) -> Option<(View<'a>, View<'a>)> {
    let a = parameters.get(pair.a);
    let b = parameters.initial_rows(&pair.b)?;
    Some((
        View::new(a.initial.as_ref()?, a.shape[1]),
        View::new(b, parameters.get(pair.b.id).width()),
    ))
}

/// What decides the elements that a site's pair does not see, from the key of the pass.
pub fn dropout_key(key: u64, site: Site) -> u64 {
    let place = match site {
        Site::Embedding => 0,
        Site::Output => 1,
        Site::Layer { layer, projection } => 2 + layer as u64 * Projection::ALL.len() as u64 + projection as u64,
    };
    // An odd constant spreads places over all bits (Knuth's multiplicative hashing).
    key ^ (place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}
