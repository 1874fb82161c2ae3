//! A quantized matrix as I4 or Q8_0 blocks, or as numbers where it does not fit into them.

use half::f16;
use rootstock_formats::DType;

use super::layout::Bits;
use super::module::{Groups, Module};

/// Inputs of a block.
const BLOCK: usize = 32;

/// Type and bytes of the role's rows.
pub(super) fn encode(module: &Module<'_>) -> (DType, Vec<u8>) {
    let codes = module.codes.unpack(module.rows.clone(), module.outputs, module.cols);
    match module.zeros.bits {
        Bits::Four if fits(module) => (DType::I4, blocks(module, &codes)),
        Bits::Eight if fits(module) && module.zeros.are_middle(module.outputs, module.groups.count()) => {
            (DType::Q8_0, blocks(module, &codes))
        }
        _ => (DType::F32, numbers(module, &codes)),
    }
}

/// Whether every block has one scale, which f16 holds.
fn fits(module: &Module<'_>) -> bool {
    let whole = match module.groups {
        Groups::InOrder { size, count } => size % BLOCK == 0 || count == 1,
        Groups::Listed { .. } => false,
    };
    let exact = |scale: &f32| f16::from_f32(*scale).to_f32() == *scale;
    whole && module.cols.is_multiple_of(BLOCK) && module.scales.iter().all(exact)
}

/// Each block of 4 bits: scale, zero point, and 16 bytes of which byte j holds input j (low half) and input j + 16; of 8 bits: scale
/// and signed bytes.
fn blocks(module: &Module<'_>, codes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (row, codes) in module.rows.clone().zip(codes.chunks_exact(module.cols)) {
        for (index, codes) in codes.chunks_exact(BLOCK).enumerate() {
            let group = module.groups.of(index * BLOCK);
            bytes.extend(f16::from_f32(module.scale(row, group)).to_le_bytes());
            if module.zeros.bits == Bits::Eight {
                bytes.extend(codes.iter().map(|code| code.wrapping_sub(Bits::Eight.middle())));
                continue;
            }
            bytes.push(module.zero(row, group));
            let (low, high) = codes.split_at(BLOCK / 2);
            bytes.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        }
    }
    bytes
}

fn numbers(module: &Module<'_>, codes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(codes.len() * 4);
    for (row, codes) in module.rows.clone().zip(codes.chunks_exact(module.cols)) {
        let of_group = |group| (module.scale(row, group), module.zero(row, group));
        let groups: Vec<_> = (0..module.groups.count()).map(of_group).collect();
        for (input, code) in codes.iter().enumerate() {
            let (scale, zero) = groups[module.groups.of(input)];
            bytes.extend((scale * (f32::from(*code) - f32::from(zero))).to_le_bytes());
        }
    }
    bytes
}
