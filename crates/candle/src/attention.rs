//! Causal attention within sequences, groups of like lengths at a time.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::groups::Group;
use crate::walk::Walk;

impl Walk<'_> {
    /// Queries `[rows, heads * width]`, keys and values `[rows, kv_heads * width]`; gives rows like the queries.
    pub fn attended(&mut self, inputs: [Tensor; 3], layer: usize) -> Result<Tensor> {
        let window = self.model.spec().layers[layer].attention.window;
        let mut all = Vec::new();
        for index in 0..self.groups.groups.len() {
            let mask = self.mask(self.groups.groups[index].length, window)?;
            let group = &self.groups.groups[index];
            let [queries, keys, values] = inputs.each_ref().map(|rows| match &group.take {
                Some(take) => rows.index_select(take, 0),
                None => Ok(rows.clone()),
            });
            all.push(self.attend_group([&queries?, &keys?, &values?], (group, &mask), layer)?);
        }
        let all = Tensor::cat(&all, 0)?;
        match &self.groups.place {
            Some(place) => all.index_select(place, 0),
            None => Ok(all),
        }
    }

    /// Query heads that share keys are rows of one product with them.
    fn attend_group(
        &self,
        [queries, keys, values]: [&Tensor; 3],
        (group, mask): (&Group, &Tensor),
        layer: usize,
    ) -> Result<Tensor> {
        let attention = &self.model.spec().layers[layer].attention;
        let (kv_heads, width, (count, length)) = (attention.kv_heads, attention.head_dim, (group.count, group.length));
        let sharing = attention.heads / kv_heads;
        let (batch, kind) = (count * kv_heads, queries.dtype());
        // Scaled before the product, which would leave f16's range sooner.
        let queries = (queries * f64::from(attention.scale))?.reshape((count, length, kv_heads, sharing, width))?;
        let queries = queries
            .permute((0, 2, 3, 1, 4))?
            .reshape((batch, sharing * length, width))?;
        let heads = |rows: &Tensor| rows.reshape((count, length, kv_heads, width));
        let keys = heads(keys)?.permute((0, 2, 3, 1))?.reshape((batch, width, length))?;
        let values = heads(values)?.permute((0, 2, 1, 3))?.reshape((batch, length, width))?;
        let scores = queries.matmul(&keys)?.to_dtype(DType::F32)?;
        let scores = scores.reshape((batch * sharing, length, length))?.broadcast_add(mask)?;
        let shares = softmax(&scores)?.to_dtype(kind)?;
        let mixed = shares.reshape((batch, sharing * length, length))?.matmul(&values)?;
        let mixed = mixed.reshape((count, kv_heads, sharing, length, width))?;
        mixed
            .permute((0, 3, 1, 2, 4))?
            .reshape((count * length, kv_heads * sharing * width))
    }

    /// 0 where a row sees another and minus infinity elsewhere, `[length, length]`.
    fn mask(&mut self, length: usize, window: Option<usize>) -> Result<Tensor> {
        if let Some(mask) = self.masks.get(&(length, window)) {
            return Ok(mask.clone());
        }
        let mask = additive_mask(length, window, &self.weights.device)?;
        self.masks.insert((length, window), mask.clone());
        Ok(mask)
    }
}

fn additive_mask(length: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let sees = |row: usize, other: usize| other <= row && window.is_none_or(|window| other + window > row);
    let of_row = |row| (0..length).map(move |other| if sees(row, other) { 0.0 } else { f32::NEG_INFINITY });
    Tensor::from_iter((0..length).flat_map(of_row), device)?.reshape((length, length))
}

/// Candle's own has no backward pass.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let powers = scores.broadcast_sub(&largest)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_sees_itself_and_what_its_window_reaches_back_to() {
        let mask: Vec<f32> = additive_mask(3, Some(2), &Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let seen: Vec<bool> = mask.iter().map(|&value| value == 0.0).collect();
        assert_eq!(seen, [true, false, false, true, true, false, false, true, true]);
    }
}
