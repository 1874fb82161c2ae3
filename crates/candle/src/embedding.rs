//! Where a walk begins: rows of the residual stream for the tokens of a batch. Frozen tables stay on the host, since a step reads but
//! a few of their rows.

use candle_core::{Result, Tensor};
use rootstock_decoder::Rows;
use rootstock_model::Site;

use crate::walk::Walk;

impl Walk<'_> {
    /// Embeddings of the tokens and what is learned of their positions, `[rows, hidden]`, f32.
    pub fn embedded(&mut self) -> Result<Tensor> {
        let table = self.trained.weight(Site::Embedding);
        let mut rows = self.frozen_rows(table.is_none())?;
        if let Some(table) = table {
            rows = (self.trained_rows(table)? + rows)?;
        }
        let Some(positions) = self.trained.positions else {
            return Ok(rows);
        };
        let at = self.batch.positions().iter().map(|&position| position as u32);
        let at = Tensor::from_iter(at, &self.weights.device)?;
        rows + self.leaves.get(positions)?.index_select(&at, 0)?
    }

    /// Rows of the tables that are not trained.
    fn frozen_rows(&self, embedding: bool) -> Result<Tensor> {
        let (spec, tokens) = (self.model.spec(), self.batch.tokens());
        let hidden = spec.hidden_size;
        let mut rows = vec![0.0; tokens.len() * hidden];
        if embedding {
            let table = self.model.matrix(Site::Embedding);
            for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(hidden)) {
                table.dequantize_row(token as usize, row);
                row.iter_mut().for_each(|value| *value *= spec.embedding_scale);
            }
        }
        let positions = self.model.positions().filter(|_| self.trained.positions.is_none());
        if let Some(table) = positions {
            let mut learned = vec![0.0; hidden];
            for (&position, row) in self.batch.positions().iter().zip(rows.chunks_exact_mut(hidden)) {
                table.dequantize_row(position, &mut learned);
                row.iter_mut()
                    .zip(&learned)
                    .for_each(|(value, learned)| *value += learned);
            }
        }
        Tensor::from_vec(rows, (tokens.len(), hidden), &self.weights.device)
    }

    fn trained_rows(&mut self, table: &Rows) -> Result<Tensor> {
        let tokens = Tensor::new(self.batch.tokens(), &self.weights.device)?;
        let taken = self.leaves.rows(table)?.index_select(&tokens, 0)?;
        taken * f64::from(self.model.spec().embedding_scale)
    }
}
