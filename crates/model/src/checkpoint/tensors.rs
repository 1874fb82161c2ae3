//! The tensors of a checkpoint by role: each one that the architecture needs, with its shape, and no other.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rootstock_formats::{DType, TensorInfo};

use super::Refusal;
use super::roles::{NameTable, Place, Role, TensorPlace};
use super::shards::Shards;
use crate::weights::floats;
use crate::{ArchSpec, MatrixView};

/// Where every tensor of a model lies in its files, and the vectors themselves.
pub(super) struct Tensors {
    shards: Shards,
    matrices: BTreeMap<Role, (Place, [usize; 2])>,
    vectors: BTreeMap<Role, Vec<f32>>,
}

impl Tensors {
    /// Finds every tensor that `spec` needs.
    pub(super) fn find(shards: Shards, names: &dyn NameTable, spec: &ArchSpec) -> Result<Self, Refusal> {
        let mut found = BTreeSet::new();
        let (mut matrices, mut vectors) = (BTreeMap::new(), BTreeMap::new());
        for role in Role::all(spec) {
            let shape = role.shape(spec);
            let place = names.place(role);
            match &place {
                Place::Tensor(at) => check_tensor(&shards, at, &shape)?,
                Place::Int4(at) => at.check(&shards, &shape)?,
            }
            match &place {
                Place::Tensor(at) => drop(found.insert(at.name.clone())),
                Place::Int4(at) => found.extend(at.tensors(&shards)),
            }
            match (shape.as_slice(), place) {
                (&[rows, cols], place) => drop(matrices.insert(role, (place, [rows, cols]))),
                (_, Place::Tensor(at)) => drop(vectors.insert(role, vector(&shards, &at, &shape)?)),
                (_, Place::Int4(_)) => {
                    return Err(Refusal::unsupported(format_args!(
                        "{role}: a vector cannot be quantized"
                    )));
                }
            }
        }
        let known = |name: &&str| found.contains(*name) || names.is_implied(name);
        if let Some(name) = shards.names().find(|name| !known(name)) {
            // A tensor without a role would silently have no effect.
            return Err(Refusal::unsupported(format_args!(
                "tensor {name:?}: the architecture has no place for it"
            )));
        }
        Ok(Self {
            shards,
            matrices,
            vectors,
        })
    }

    /// The files.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// The matrix of a role.
    ///
    /// # Panics
    /// If the architecture has no such role.
    pub(super) fn matrix(&self, role: Role) -> Result<MatrixView<'_>, Refusal> {
        let Some((place, shape)) = self.matrices.get(&role) else {
            panic!("the architecture has no {role}");
        };
        match place {
            Place::Tensor(at) => matrix(&self.shards, at, *shape),
            Place::Int4(at) => at.matrix(&self.shards, *shape),
        }
    }

    /// The vector of a role, if the architecture has it.
    pub(super) fn vector(&self, role: Role) -> Option<&[f32]> {
        self.vectors.get(&role).map(Vec::as_slice)
    }
}

fn lookup<'a>(shards: &'a Shards, name: &str, shape: &[usize]) -> Result<(&'a TensorInfo, &'a [u8]), Refusal> {
    shards
        .tensor(name)
        .ok_or_else(|| Refusal::unsupported(format_args!("tensor {name} {shape:?} is missing")))
}

/// The shape as the file has it: `shape` is that of the role.
fn stored_shape(at: &TensorPlace, shape: &[usize]) -> Vec<usize> {
    let mut stored = shape.to_vec();
    if let (Some(part), Some(rows)) = (&at.part, stored.first_mut()) {
        *rows = part.of;
    }
    if at.transposed {
        stored.reverse();
    }
    stored
}

fn check_tensor(shards: &Shards, at: &TensorPlace, shape: &[usize]) -> Result<(), Refusal> {
    let expected = stored_shape(at, shape);
    let (info, _) = lookup(shards, &at.name, &expected)?;
    let (name, got, dtype) = (&at.name, &info.shape, info.dtype);
    if *got != expected {
        return Err(Refusal::unsupported(format_args!(
            "tensor {name}: expected shape {expected:?}, got {got:?}"
        )));
    }
    if let Some(part) = &at.part
        && (part.rows.len() != shape[0] || part.rows.end > part.of)
    {
        return Err(Refusal::unsupported(format_args!(
            "tensor {name}: rows {:?} of {} are not {} rows",
            part.rows, part.of, shape[0]
        )));
    }
    let integers = matches!(dtype, DType::I32 | DType::I64 | DType::U8 | DType::I8);
    if integers || (at.transposed && !dtype.is_float()) {
        return Err(Refusal::unsupported(format_args!(
            "tensor {name}: elements of type {dtype} are not supported here"
        )));
    }
    Ok(())
}

fn matrix<'a>(shards: &'a Shards, at: &TensorPlace, [rows, cols]: [usize; 2]) -> Result<MatrixView<'a>, Refusal> {
    let (info, bytes) = lookup(shards, &at.name, &[rows, cols])?;
    let first = at.part.as_ref().map_or(0, |part| part.rows.start);
    let stored_rows = at.part.as_ref().map_or(rows, |part| part.of);
    let bytes = if at.transposed {
        let (_, size) = info.dtype.block();
        Cow::Owned(transposed(bytes, size, stored_rows, first..first + rows))
    } else {
        let stride = bytes.len() / stored_rows;
        Cow::Borrowed(&bytes[first * stride..(first + rows) * stride])
    };
    Ok(MatrixView {
        dtype: info.dtype,
        rows,
        cols,
        bytes,
        row_order: at.order,
    })
}

/// Columns that are read together: a cache line of the file serves several.
const COLUMNS_AT_ONCE: usize = 64;

/// Columns `wanted` of a stored `[inputs, outputs]` of elements of `size` bytes, as rows.
fn transposed(bytes: &[u8], size: usize, outputs: usize, wanted: std::ops::Range<usize>) -> Vec<u8> {
    let stride = bytes.len() / outputs;
    let mut rows = vec![0; stride * wanted.len()];
    for (index, chunk) in rows.chunks_mut(COLUMNS_AT_ONCE * stride).enumerate() {
        let first = (wanted.start + index * COLUMNS_AT_ONCE) * size;
        for (at, input) in (0..stride).step_by(size).zip(bytes.chunks_exact(outputs * size)) {
            let elements = input[first..].chunks_exact(size);
            for (row, element) in chunk.chunks_exact_mut(stride).zip(elements) {
                row[at..at + size].copy_from_slice(element);
            }
        }
    }
    rows
}

fn vector(shards: &Shards, at: &TensorPlace, shape: &[usize]) -> Result<Vec<f32>, Refusal> {
    let (info, bytes) = lookup(shards, &at.name, shape)?;
    if !info.dtype.is_float() {
        return Err(Refusal::unsupported(format_args!(
            "tensor {}: {} is not supported for a vector (supported: F32, F16, BF16)",
            at.name, info.dtype
        )));
    }
    let mut values = floats(info.dtype, bytes);
    if let Some(part) = &at.part {
        values = values[part.rows.clone()].to_vec();
    }
    let rows = values.len();
    values = (0..rows)
        .map(|row| values[at.order.stored_row(row)] + at.offset)
        .collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Refusal::unsupported(format_args!(
            "tensor {}: expected finite values, got NaN or infinity at {index}",
            at.name
        ))),
        None => Ok(values),
    }
}
