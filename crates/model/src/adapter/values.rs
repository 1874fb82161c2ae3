//! The values of an adapter: read once into their own memory, checked for NaN and infinity, for being nothing, and hashed.

use std::io::{Read, Seek, SeekFrom};

use rootstock_formats::{DType, TensorInfo};

use super::file::io_refusal;
use super::folder::{WEIGHTS, Weights};
use super::names::Side;
use super::plan::{PairPlan, Plan};
use super::{AdapterError, AdapterErrorCode, AdapterTensor, LowRank};
use crate::ContentHash;

/// Set apart from every other use of the hash function; a new layout of the hashed bytes takes a new number.
const HASH_CONTEXT: &str = "rootstock adapter content 1";

/// Reads every pair of `plan`.
pub(super) fn read_pairs(weights: &mut Weights, plan: &Plan<'_>) -> Result<Vec<LowRank>, AdapterError> {
    let pairs = plan.pairs.iter().map(|pair| read_pair(weights, plan, pair));
    let pairs: Vec<LowRank> = pairs.collect::<Result<_, _>>()?;
    weights.check_unchanged()?;
    if pairs.iter().all(changes_nothing) {
        let message = format!(
            "{WEIGHTS}: expected a delta that is not zero, got lora_A or lora_B all zero in each of {} pairs",
            pairs.len()
        );
        return Err(AdapterError::new(AdapterErrorCode::ZeroDelta, message));
    }
    Ok(pairs)
}

/// Hash of what the pairs do, equal for equal content under any name.
pub(super) fn content_hash(pairs: &[LowRank]) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    for pair in pairs {
        hasher.update(pair.site.to_string().as_bytes());
        hasher.update(&pair.scale.to_bits().to_le_bytes());
        for tensor in [&pair.a, &pair.b] {
            hasher.update(tensor.dtype.to_string().as_bytes());
            hasher.update(&(tensor.rows as u64).to_le_bytes());
            hasher.update(&(tensor.cols as u64).to_le_bytes());
            hasher.update(&tensor.bytes);
        }
    }
    ContentHash(hasher.finalize().into())
}

fn read_pair(weights: &mut Weights, plan: &Plan<'_>, pair: &PairPlan<'_>) -> Result<LowRank, AdapterError> {
    let mut read = |side, info| {
        let name = || plan.names.tensor(pair.site, side);
        read_tensor(weights, info, name)
    };
    Ok(LowRank {
        site: pair.site,
        scale: pair.scale,
        a: read(Side::A, pair.a)?,
        b: read(Side::B, pair.b)?,
        magnitude: None,
    })
}

/// Reads a matrix of the plan; `name` is asked for only to refuse it.
fn read_tensor(
    weights: &mut Weights,
    info: &TensorInfo,
    name: impl Fn() -> String,
) -> Result<AdapterTensor, AdapterError> {
    let mut bytes = vec![0; info.range.len()];
    let start = SeekFrom::Start(info.range.start as u64);
    let read = weights
        .file
        .seek(start)
        .and_then(|_| weights.file.read_exact(&mut bytes));
    read.map_err(|error| io_refusal(WEIGHTS, &error))?;
    let (rows, cols) = (info.shape[0], info.shape[1]);
    if let Some(index) = first_not_finite(info.dtype, &bytes) {
        let (name, row, col) = (name(), index / cols, index % cols);
        let message =
            format!("{WEIGHTS}: tensor {name}: expected finite values, got NaN or infinity at [{row}, {col}]");
        return Err(AdapterError::new(AdapterErrorCode::NotFinite, message));
    }
    Ok(AdapterTensor {
        dtype: info.dtype,
        rows,
        cols,
        bytes,
    })
}

/// A value is not finite exactly if all bits of its exponent are set.
fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let half = |exponent: u16| {
        bytes
            .chunks_exact(2)
            .position(|x| u16::from_le_bytes([x[0], x[1]]) & exponent == exponent)
    };
    match dtype {
        DType::F32 => half_of_singles(bytes).position(|high| high & 0x7f80 == 0x7f80),
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => None,
    }
}

/// The upper halves of little-endian singles, where sign and exponent are.
fn half_of_singles(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(4).map(|x| u16::from_le_bytes([x[2], x[3]]))
}

fn changes_nothing(pair: &LowRank) -> bool {
    pair.scale == 0.0 || is_zero(&pair.a) || is_zero(&pair.b)
}

/// Whether every value is 0 or -0.
fn is_zero(tensor: &AdapterTensor) -> bool {
    let (_, size) = tensor.dtype.block();
    tensor.bytes.chunks_exact(size).all(|value| {
        let (&high, rest) = value.split_last().unwrap_or((&0, &[]));
        high & 0x7f == 0 && rest.iter().all(|&byte| byte == 0)
    })
}
