//! The values of an adapter: read once into their own memory, brought into their right form, checked for NaN and infinity
//! and for being nothing.

use std::io::{Read, Seek, SeekFrom};

use rootstock_formats::DType;

use super::container::{Contents, Files, Weights};
use super::file::io_refusal;
use super::plan::{BottleneckPlan, EffectPlan, Form, PairPlan, Piece, Plan};
use super::{
    AdapterError, AdapterErrorCode as Code, AdapterTensor, BiasEffect, BiasKind, Bottleneck, Effect, LowRank,
    MatrixEffect, NormEffect,
};

/// Reads every effect of `plan`.
pub(super) fn read_effects(files: &Files, plan: &Plan<'_>) -> Result<Vec<Effect>, AdapterError> {
    let effects = plan.effects.iter().map(|effect| read_effect(files, effect));
    let effects: Vec<Effect> = effects.collect::<Result<_, _>>()?;
    let initial = files.initial.as_ref().map(|file| &file.weights);
    let head = files.head.as_ref().map(|head| &head.weights);
    for weights in [Some(&files.main.weights), initial, head].into_iter().flatten() {
        weights.check_unchanged()?;
    }
    if effects.iter().all(changes_nothing) {
        let (tensors, changes) = match files.main.contents {
            Contents::AdapterHub { .. } => ("adapter_up or scaling", "bottlenecks"),
            Contents::Peft { .. } | Contents::Gguf(_) => ("lora_A or lora_B", "pairs"),
        };
        let message = format!(
            "{}: expected a delta that is not zero, got {} all zero in each of {} {}",
            files.main.weights.name,
            tensors,
            effects.len(),
            changes
        );
        return Err(AdapterError::new(Code::ZeroDelta, message));
    }
    Ok(effects)
}

fn read_effect(files: &Files, plan: &EffectPlan<'_>) -> Result<Effect, AdapterError> {
    let weights = &files.main.weights;
    Ok(match plan {
        EffectPlan::LowRank(pair) => Effect::LowRank(read_pair(files, pair)?),
        EffectPlan::Bias { site, kind, values } => Effect::Bias(BiasEffect {
            site: *site,
            kind: *kind,
            values: read(weights, values)?,
        }),
        EffectPlan::Matrix { site, values } => Effect::Matrix(MatrixEffect {
            site: *site,
            values: read(weights, values)?,
        }),
        EffectPlan::Norm {
            site,
            weight,
            bias,
            offset,
        } => {
            let vector = |piece: &Option<Piece<'_>>, offset: f32| -> Result<Option<Vec<f32>>, AdapterError> {
                let tensor = piece.as_ref().map(|piece| read(weights, piece)).transpose()?;
                Ok(tensor.map(|tensor| tensor.to_f32().into_iter().map(|value| value + offset).collect()))
            };
            Effect::Norm(NormEffect {
                site: *site,
                weight: vector(weight, *offset)?,
                bias: vector(bias, 0.0)?,
            })
        }
        EffectPlan::Bottleneck(bottleneck) => Effect::Bottleneck(read_bottleneck(weights, bottleneck)?),
        EffectPlan::Head { site, values } => Effect::Matrix(MatrixEffect {
            site: *site,
            values: read(files.head.as_ref().map_or(weights, |head| &head.weights), values)?,
        }),
    })
}

fn read_pair(files: &Files, pair: &PairPlan<'_>) -> Result<LowRank, AdapterError> {
    let weights = &files.main.weights;
    let (mut a, mut b) = (read(weights, &pair.a)?, read(weights, &pair.b)?);
    if let (Some([a0, b0]), Some(file)) = (&pair.initial, &files.initial) {
        let mut negative = read(&file.weights, b0)?;
        negate(&mut negative);
        a = stacked(a, read(&file.weights, a0)?);
        b = side_by_side(b, negative);
    }
    let magnitude = pair.magnitude.as_ref().map(|piece| {
        let magnitude = read(weights, piece)?;
        if is_zero(&magnitude) {
            let (file, name) = (&weights.name, piece.tensor.name);
            let message = format!("{file}: tensor {name}: expected magnitudes, got zeros");
            return Err(AdapterError::new(Code::Malformed, message));
        }
        Ok(magnitude)
    });
    Ok(LowRank {
        site: pair.site,
        scale: pair.scale,
        a,
        b,
        magnitude: magnitude.transpose()?,
    })
}

fn read_bottleneck(weights: &Weights, plan: &BottleneckPlan<'_>) -> Result<Bottleneck, AdapterError> {
    let [down, down_bias, up, up_bias] = &plan.tensors;
    Ok(Bottleneck {
        site: plan.site,
        input: plan.input,
        activation: plan.activation,
        scale: plan.scale,
        down: read(weights, down)?,
        down_bias: read(weights, down_bias)?,
        up: read(weights, up)?,
        up_bias: read(weights, up_bias)?,
    })
}

/// Reads a piece of a tensor in the form that is meant.
fn read(weights: &Weights, piece: &Piece<'_>) -> Result<AdapterTensor, AdapterError> {
    let (rows, cols) = piece.shape();
    // A tensor in another form is read whole: its pieces may lie anywhere in it.
    let (stored_rows, stored_cols) = piece.tensor.matrix_shape();
    let range = match piece.form {
        Form::AsStored => piece.rows.clone(),
        Form::Turned | Form::Ordered(_) => 0..stored_rows,
    };
    let info = piece.tensor.info;
    let per_row = info.range.len().checked_div(stored_rows).unwrap_or(0);
    let mut bytes = vec![0; range.len() * per_row];
    let start = info.range.start + range.start * per_row;
    let mut file = &weights.file;
    let found = file
        .seek(SeekFrom::Start(start as u64))
        .and_then(|_| file.read_exact(&mut bytes));
    found.map_err(|error| io_refusal(&weights.name, &error))?;
    let (dtype, bytes) = match info.dtype {
        DType::Q8_0 => (DType::F32, decoded_q8_0(&bytes)),
        dtype => (dtype, bytes),
    };
    if let Some(index) = first_not_finite(dtype, &bytes) {
        let (row, col) = (range.start + index / stored_cols.max(1), index % stored_cols.max(1));
        let (file, name) = (&weights.name, piece.tensor.name);
        let message = format!("{file}: tensor {name}: expected finite values, got NaN or infinity at [{row}, {col}]");
        return Err(AdapterError::new(Code::NotFinite, message));
    }
    let (_, size) = dtype.block();
    let element = |row: usize, col: usize| {
        let at = (row * stored_cols + col) * size;
        &bytes[at..at + size]
    };
    let bytes = match piece.form {
        Form::AsStored => bytes,
        Form::Turned => {
            let wanted = piece
                .rows
                .clone()
                .flat_map(|row| (0..cols).flat_map(move |col| [(col, row)]));
            wanted.flat_map(|(row, col)| element(row, col)).copied().collect()
        }
        Form::Ordered(order) => {
            let row_of = |row: usize| {
                let stored = order.stored_row(row - piece.rows.start) + piece.rows.start;
                &bytes[stored * stored_cols * size..(stored + 1) * stored_cols * size]
            };
            piece.rows.clone().flat_map(row_of).copied().collect()
        }
    };
    Ok(AdapterTensor {
        dtype,
        rows,
        cols,
        bytes,
    })
}

/// Blocks of 32: an f16 scale, 32 signed bytes.
fn decoded_q8_0(bytes: &[u8]) -> Vec<u8> {
    let blocks = bytes.chunks_exact(34);
    let values = blocks.flat_map(|block| {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..]
            .iter()
            .map(move |&value| scale * f32::from(value.cast_signed()))
    });
    values.flat_map(f32::to_le_bytes).collect()
}

/// Values that are looked at together: without a way out of the loop the compiler compares many at a time.
const TOGETHER: usize = 512;

/// A value is not finite exactly if all bits of its exponent are set.
fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        DType::F32 => first_with_all(bytes, |x: &[u8; 4]| u32::from_le_bytes(*x), 0x7f80_0000),
        DType::F16 => first_with_all(bytes, |x: &[u8; 2]| u16::from_le_bytes(*x).into(), 0x7c00),
        DType::BF16 => first_with_all(bytes, |x: &[u8; 2]| u16::from_le_bytes(*x).into(), 0x7f80),
        _ => None,
    }
}

/// The first value of `SIZE` bytes that has all bits of a mask.
fn first_with_all<const SIZE: usize>(bytes: &[u8], bits: impl Fn(&[u8; SIZE]) -> u32, mask: u32) -> Option<usize> {
    let (values, _) = bytes.as_chunks::<SIZE>();
    let has_all = |value: &[u8; SIZE]| bits(value) & mask == mask;
    let mut parts = values.chunks(TOGETHER).enumerate();
    let (part, found) = parts.find(|(_, part)| part.iter().fold(false, |any, value| any | has_all(value)))?;
    Some(part * TOGETHER + found.iter().position(has_all)?)
}

/// Whether the effect is known to leave the base as it is; what replaces something of the base is not known to.
fn changes_nothing(effect: &Effect) -> bool {
    match effect {
        Effect::LowRank(pair) => {
            pair.magnitude.is_none() && (pair.scale == 0.0 || is_zero(&pair.a) || is_zero(&pair.b))
        }
        Effect::Bias(bias) => match bias.kind {
            BiasKind::Replaces => false,
            BiasKind::Adds(scale) => scale == 0.0 || is_zero(&bias.values),
        },
        Effect::Bottleneck(bottleneck) => {
            bottleneck.scale == 0.0 || is_zero(&bottleneck.up) && is_zero(&bottleneck.up_bias)
        }
        Effect::Matrix(_) | Effect::Norm(_) => false,
    }
}

/// Whether every value is 0 or -0.
fn is_zero(tensor: &AdapterTensor) -> bool {
    let (_, size) = tensor.dtype.block();
    tensor.bytes.chunks_exact(size).all(|value| {
        let (&high, rest) = value.split_last().unwrap_or((&0, &[]));
        high & 0x7f == 0 && rest.iter().all(|&byte| byte == 0)
    })
}

fn negate(tensor: &mut AdapterTensor) {
    let (_, size) = tensor.dtype.block();
    for sign in tensor.bytes.iter_mut().skip(size - 1).step_by(size) {
        *sign ^= 0x80;
    }
}

/// The rows of both, one below the other.
fn stacked(upper: AdapterTensor, lower: AdapterTensor) -> AdapterTensor {
    let (mut upper, lower) = in_one_type(upper, lower);
    upper.rows += lower.rows;
    upper.bytes.extend(lower.bytes);
    upper
}

/// The columns of both, one beside the other.
fn side_by_side(left: AdapterTensor, right: AdapterTensor) -> AdapterTensor {
    let (left, right) = in_one_type(left, right);
    let (_, size) = left.dtype.block();
    let rows = left
        .bytes
        .chunks_exact(left.cols * size)
        .zip(right.bytes.chunks_exact(right.cols * size));
    AdapterTensor {
        bytes: rows.flat_map(|(left, right)| [left, right].concat()).collect(),
        cols: left.cols + right.cols,
        ..left
    }
}

/// Both as singles unless they are of one type already.
fn in_one_type(one: AdapterTensor, other: AdapterTensor) -> (AdapterTensor, AdapterTensor) {
    let single = |tensor: AdapterTensor| AdapterTensor {
        bytes: tensor.to_f32().into_iter().flat_map(f32::to_le_bytes).collect(),
        dtype: DType::F32,
        ..tensor
    };
    match one.dtype == other.dtype {
        true => (one, other),
        false => (single(one), single(other)),
    }
}
