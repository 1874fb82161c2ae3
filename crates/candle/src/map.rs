//! A linear map with whatever is trained at it: a low-rank pair, a magnitude, the weight or the bias.

use candle_core::{DType, Result, Tensor};
use rootstock_decoder::tape::dropout_key;
use rootstock_decoder::{LowRank, Rows};
use rootstock_kernels::training::dropout;
use rootstock_model::Site;

use crate::frozen::frozen_map;
use crate::walk::Walk;

impl Walk<'_> {
    /// The map of `site` of rows `x`, `[rows, inputs]`.
    pub fn mapped(&mut self, x: &Tensor, site: Site) -> Result<Tensor> {
        let (weights, trained) = (self.weights, self.trained);
        let training = trained.sites.get(&site);
        let mut y = match training.and_then(|training| training.weight.as_ref()) {
            Some(weight) => x.matmul(&self.leaves.rows(weight)?.to_dtype(weights.kind)?.t()?)?,
            None => frozen_map(x, &weights.maps[&site])?,
        };
        let pair = training.and_then(|training| training.pair.as_ref());
        if let Some(pair) = pair {
            y = (y + self.through_pair(x, site, pair)?)?;
        }
        // Gradients of magnitudes and biases are sums over rows, for which 16 bits are too few.
        if let Some(magnitude) = training.and_then(|training| training.magnitude.as_ref()) {
            y = y
                .to_dtype(DType::F32)?
                .broadcast_mul(&self.factors(site, pair, magnitude)?)?;
        }
        if let Some(bias) = training.and_then(|training| training.bias.as_ref()) {
            y = y.to_dtype(DType::F32)?.broadcast_add(&self.leaves.rows(bias)?)?;
        } else if let Some(bias) = weights.biases.get(&site) {
            y = y.broadcast_add(&bias.to_dtype(y.dtype())?)?;
        }
        y.to_dtype(weights.kind)
    }

    /// `scale * B A x`, less `scale * B0 A0 x` of a pair with initial values. Products in 16 bits would round away how far such
    /// a pair has come from its beginning.
    fn through_pair(&mut self, x: &Tensor, site: Site, pair: &LowRank) -> Result<Tensor> {
        let initial = self.leaves.initial(pair)?;
        let kind = match initial {
            None => self.weights.kind,
            Some(_) => DType::F32,
        };
        let x = x.to_dtype(kind)?;
        let a = self.leaves.get(pair.a)?.to_dtype(kind)?;
        let b = self.leaves.rows(&pair.b)?.to_dtype(kind)?;
        let seen = match self.dropout_mask(&x, site, pair)? {
            Some(mask) => (&x * mask)?,
            None => x.clone(),
        };
        let mut y = seen.matmul(&a.t()?)?.matmul(&b.t()?)?;
        if let Some((a, b)) = initial {
            y = (y - frozen_map(&frozen_map(&x, &a)?, &b)?)?;
        }
        (y * f64::from(pair.scale))?.to_dtype(self.weights.kind)
    }

    /// Factors on what the pair sees, the same that our own kernels draw; `None` where it sees all.
    fn dropout_mask(&mut self, x: &Tensor, site: Site, pair: &LowRank) -> Result<Option<Tensor>> {
        let Some(key) = self.dropout_key.filter(|_| pair.dropout > 0.0) else {
            return Ok(None);
        };
        let mut factors = vec![1.0; x.elem_count()];
        dropout(self.context, dropout_key(key, site), pair.dropout, &mut factors);
        let mask = Tensor::from_vec(factors, x.shape(), x.device())?;
        mask.to_dtype(x.dtype()).map(Some)
    }

    /// DoRA's factors (Liu et al., 2024), f32: trained lengths by those of the outputs' weights, base and pair together. As in the
    /// paper's section 4.3 the latter count as constants.
    fn factors(&mut self, site: Site, pair: Option<&LowRank>, magnitude: &Rows) -> Result<Tensor> {
        let lengths = self.lengths(site, pair)?.detach();
        self.leaves.rows(magnitude)? / lengths
    }

    /// Lengths of `w + scale * b A` of every output, from `|w|^2`, `w . (b A)` and the Gram matrix of A; f32, `[outputs]`.
    fn lengths(&mut self, site: Site, pair: Option<&LowRank>) -> Result<Tensor> {
        let weight = &self.weights.maps[&site];
        let squares = match self.squares.get(&site) {
            Some(squares) => squares.clone(),
            None => {
                let squares = weight.to_dtype(DType::F32)?.sqr()?.sum(1)?;
                self.squares.insert(site, squares.clone());
                squares
            }
        };
        let Some(pair) = pair else { return squares.sqrt() };
        let (a, b) = (self.leaves.get(pair.a)?.detach(), self.leaves.rows(&pair.b)?.detach());
        let with_weights = weight.matmul(&a.to_dtype(self.weights.kind)?.t()?)?;
        let mixed = (with_weights.to_dtype(DType::F32)? * &b)?.sum(1)?;
        let of_pair = (b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)?;
        let scale = f64::from(pair.scale);
        let squares = ((squares + (mixed * (2.0 * scale))?)? + (of_pair * (scale * scale))?)?;
        squares.relu()?.sqrt()
    }
}
