//! What waits for the way back: as little as it can be computed from, and in bfloat16 where products round to that anyway.

use rootstock_kernels::Arithmetic;
use rootstock_kernels::training::{round_values, widen_values};
use rootstock_model::NormSite;

use super::{Mark, Op, Tape, Value};

impl Tape<'_, '_> {
    /// Puts away what a layer computed since `mark` from the rows of `entrance`; what it gave, `out`, stays as it is.
    pub fn put_away(&mut self, mark: Mark, entrance: Value, out: Value) {
        self.drop_cheap(mark);
        if self.rounds() {
            (entrance.0..out.0).for_each(|value| self.round(Value(value)));
        }
    }

    /// Whether values are rounded while they wait.
    pub fn rounds(&self) -> bool {
        self.pass.arithmetic == Arithmetic::Bf16
    }

    /// Drops what was made since `mark` by operations that cost little next to a product: it is made again when the way back
    /// asks for it. Only maps and bottlenecks ask; normalised heads go to attention and stay.
    fn drop_cheap(&mut self, mark: Mark) {
        for op in &self.ops[mark.ops..] {
            let of_heads = matches!(
                op,
                Op::Norm {
                    site: NormSite::Query(_) | NormSite::Key(_),
                    ..
                }
            );
            if let Op::Norm { out, .. } | Op::Gate { out, .. } = op
                && !of_heads
            {
                let values = std::mem::take(&mut self.nodes[out.0].values);
                self.machine.memory.give(values);
            }
        }
    }

    fn round(&mut self, value: Value) {
        let values = self.take_values(value);
        if values.is_empty() {
            return;
        }
        let machine = &mut *self.machine;
        let mut rounded = machine.memory.take_halves(values.len());
        round_values(machine.context, &values, &mut rounded);
        machine.memory.give(values);
        self.nodes[value.0].rounded = rounded;
    }

    /// Brings the elements of a value back.
    pub(super) fn restore(&mut self, value: Value) {
        let node = &mut self.nodes[value.0];
        if !node.values.is_empty() {
            return;
        }
        let rounded = std::mem::take(&mut node.rounded);
        let values = match rounded.is_empty() {
            true => self.made_again(value),
            false => self.widened(rounded),
        };
        self.nodes[value.0].values = values;
    }

    fn widened(&mut self, rounded: Vec<u16>) -> Vec<f32> {
        let machine = &mut *self.machine;
        let mut values = machine.memory.take(rounded.len());
        widen_values(machine.context, &rounded, &mut values);
        machine.memory.give_halves(rounded);
        values
    }

    /// The elements of a value that [`Self::drop_cheap`] has dropped; none of one that another has taken over.
    fn made_again(&mut self, value: Value) -> Vec<f32> {
        match self.ops.iter().rev().find(|op| op.out() == value) {
            Some(&Op::Norm { x, site, .. }) => {
                self.restore(x);
                self.normed(x, site)
            }
            Some(&Op::Gate {
                gate, up, activation, ..
            }) => {
                self.restore(gate);
                up.into_iter().for_each(|up| self.restore(up));
                self.activated(activation, gate, up)
            }
            _ => Vec::new(),
        }
    }
}
