//! A matrix in another type, rows shared out over threads and read a few at a time, and how far it is from what it was.

use std::ops::Range;
use std::panic::resume_unwind;

use rootstock_formats::DType;
use rootstock_kernels::{BlockFormat, Grid, GroupFormat, PackedMatrix, encode_groups, encode_row};
use rootstock_model::checkpoint::Role;
use rootstock_model::{MatrixView, ModelError, RowOrder, WeightSource, append_bytes, packing};

use crate::OptimizeError;

/// Rows that a thread has in memory at a time.
const ROWS_AT_ONCE: usize = 32;

/// A matrix to be rounded.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// Where it comes from.
    pub weights: &'a (dyn WeightSource + Sync),
    /// Which it is.
    pub role: Role,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// Threads.
    pub threads: usize,
    /// Where its type's blocks share scales: the groups that do.
    pub groups: Option<GroupFormat>,
}

/// Sums of squares: of what is lost, and of what there was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Loss {
    pub lost: f64,
    pub total: f64,
}

impl Loss {
    pub(super) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.total += other.total;
    }

    /// Root of what is lost over what there was; 0 of nothing.
    pub(super) fn relative(self) -> f64 {
        if self.total > 0.0 {
            (self.lost / self.total).sqrt()
        } else {
            0.0
        }
    }
}

/// Encoded rows and their loss.
#[derive(Debug, Default)]
pub(super) struct Rounded {
    pub bytes: Vec<u8>,
    pub loss: Loss,
}

impl Matrix<'_> {
    /// Some rows.
    pub(super) fn rows(&self, wanted: Range<usize>, to: &mut Vec<f32>) -> Result<(), ModelError> {
        self.weights.append_rows(self.role, wanted, self.shape[0], to)
    }

    /// Every value to the nearest that its block can have, blocks chosen by the importance of the inputs.
    pub(super) fn round(&self, dtype: DType, importance: Option<&[f32]>) -> Result<Rounded, OptimizeError> {
        let rows = self.shape[0];
        let share = rows.div_ceil(self.threads.max(1)).max(1);
        let parts: Vec<Result<Rounded, OptimizeError>> = std::thread::scope(|scope| {
            let starts = (0..rows).step_by(share);
            let workers = starts.map(|start| {
                let part = start..(start + share).min(rows);
                scope.spawn(move || self.round_rows(part, dtype, importance))
            });
            let workers: Vec<_> = workers.collect();
            let joined = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined.collect()
        });
        let mut all = Rounded::default();
        for part in parts {
            let part = part?;
            all.bytes.extend_from_slice(&part.bytes);
            all.loss.add(part.loss);
        }
        Ok(all)
    }

    fn round_rows(
        &self,
        rows: Range<usize>,
        dtype: DType,
        importance: Option<&[f32]>,
    ) -> Result<Rounded, OptimizeError> {
        let mut rounded = Rounded::default();
        let (mut values, end) = (Vec::new(), rows.end);
        // Where all inputs count alike that is said: what is searched for loading is searched less well.
        let alike = (importance.is_none() && dtype != DType::Q8_0).then(|| vec![1.0; self.shape[1]]);
        let importance = importance.or(alike.as_deref());
        for first in rows.step_by(ROWS_AT_ONCE) {
            values.clear();
            let piece = first..(first + ROWS_AT_ONCE).min(end);
            self.rows(piece.clone(), &mut values)?;
            let start = rounded.bytes.len();
            self.encode(dtype, &values, importance, &mut rounded.bytes)
                .map_err(|reason| self.refused(format!("rows {piece:?}: {reason}")))?;
            rounded.loss.add(self.loss(dtype, &rounded.bytes[start..], &values)?);
        }
        self.weights.release();
        Ok(rounded)
    }

    /// Appends rows as they are rounded.
    pub(super) fn encode(
        &self,
        dtype: DType,
        values: &[f32],
        importance: Option<&[f32]>,
        to: &mut Vec<u8>,
    ) -> Result<(), String> {
        if dtype.is_float() {
            append_bytes(dtype, values, to);
            return Ok(());
        }
        let written = match self.groups {
            Some(groups) => encode_groups(groups, values, importance, to),
            None => encode_row(block_format(dtype)?, values, importance, to),
        };
        written.map_err(|error| error.to_string())
    }

    /// The grids of whole rows, and the inputs that each is for.
    pub(super) fn grids(
        &self,
        dtype: DType,
        values: &[f32],
        importance: Option<&[f32]>,
    ) -> Result<(Vec<Grid>, usize), OptimizeError> {
        let found = match self.groups {
            Some(groups) => Grid::fit_groups(groups, values, importance).map(|grids| (grids, groups.inputs)),
            None => {
                let format = block_format(dtype).map_err(|reason| self.refused(reason))?;
                Grid::fit(format, values, importance).map(|grids| (grids, format.block_len()))
            }
        };
        found.map_err(|error| self.refused(error.to_string()))
    }

    /// Appends the block or the group of a grid.
    pub(super) fn write(&self, grid: &Grid, quants: &[u8], to: &mut Vec<u8>) {
        match self.groups {
            Some(_) => grid.write_blocks(quants, to),
            None => grid.write(quants, to),
        }
    }

    /// What encoded rows are away from what they were.
    pub(super) fn loss(&self, dtype: DType, bytes: &[u8], values: &[f32]) -> Result<Loss, OptimizeError> {
        let mut back = Vec::with_capacity(values.len());
        self.decode(dtype, bytes, &mut back)?;
        let mut loss = Loss::default();
        for (back, value) in back.iter().zip(values) {
            let lost = f64::from(back - value);
            loss.lost += lost * lost;
            loss.total += f64::from(*value) * f64::from(*value);
        }
        Ok(loss)
    }

    /// The values of encoded rows.
    pub(super) fn decode(&self, dtype: DType, bytes: &[u8], to: &mut Vec<f32>) -> Result<(), OptimizeError> {
        let cols = self.shape[1];
        let stride = dtype.tensor_bytes(&[cols]).unwrap_or(0).max(1);
        let view = MatrixView {
            dtype,
            rows: bytes.len() / stride,
            cols,
            bytes: bytes.into(),
            row_order: RowOrder::Natural,
        };
        packing::append_rows(&view, 0..view.rows, to).map_err(|error| self.refused(error.to_string()))
    }

    pub(super) fn refused(&self, reason: String) -> OptimizeError {
        OptimizeError::Tensor {
            tensor: self.role.to_string(),
            reason,
        }
    }
}

fn block_format(dtype: DType) -> Result<BlockFormat, String> {
    packing::format(dtype).ok_or_else(|| format!("weights are not rounded to {dtype}"))
}

/// Encoded rows in the layout of the kernels.
pub(super) fn packed(matrix: &Matrix<'_>, dtype: DType, bytes: &[u8]) -> Result<PackedMatrix, OptimizeError> {
    let [rows, cols] = matrix.shape;
    let format = block_format(dtype).map_err(|reason| matrix.refused(reason))?;
    let stride = bytes.len() / rows;
    PackedMatrix::pack(format, rows, cols, |row| &bytes[row * stride..][..stride])
        .map_err(|error| matrix.refused(error.to_string()))
}
