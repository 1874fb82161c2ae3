use super::*;
use crate::PackedMatrix;
use crate::testing::Random;

/// What a row becomes.
fn decoded(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![7];
    encode_row(format, values, &mut bytes).unwrap();
    assert_eq!(bytes.len(), 1 + values.len() / 32 * format.block_bytes());
    let matrix = PackedMatrix::pack(format, 1, values.len(), |_| &bytes[1..]).unwrap();
    let mut back = vec![0.0; values.len()];
    matrix.dequantize_row(0, &mut back);
    back
}

fn error(values: &[f32], back: &[f32]) -> f64 {
    let pairs = values.iter().zip(back);
    pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Values like weights: a bell with a few far out.
fn weights(random: &mut Random, count: usize) -> Vec<f32> {
    let bell = |random: &mut Random| random.numbers(6).iter().sum::<f32>() * 0.02;
    let value = |random: &mut Random| bell(random) * if random.bits().is_multiple_of(50) { 5.0 } else { 1.0 };
    (0..count).map(|_| value(random)).collect()
}

/// What ggml's own rounding loses: Q4_1 from the smallest to the largest value, Q4_0 from the largest magnitude.
fn plain_error(format: BlockFormat, values: &[f32]) -> f64 {
    let of_block = |block: &[f32]| {
        let (low, high) = block
            .iter()
            .fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let largest = if -low >= high { low } else { high };
        let (step, minimum) = match format {
            BlockFormat::Q4_1 => ((high - low) / 15.0, low),
            _ => (largest / -8.0, largest),
        };
        let (step, minimum) = (f16::from_f32(step).to_f32(), f16::from_f32(minimum).to_f32());
        let back: Vec<f32> = block
            .iter()
            .map(|v| ((v - minimum) / step).round().clamp(0.0, 15.0) * step + minimum)
            .collect();
        error(block, &back)
    };
    values.chunks_exact(32).map(of_block).sum()
}

/// Values and the Q8_0 blocks that gguf makes of them, by `fixtures/make.py`.
const GOLDEN: &[u8] = include_bytes!("../tests/fixtures/q8_0_encoded.bin");

#[test]
fn eight_bits_are_ggmls_to_the_byte() {
    let (values, blocks) = GOLDEN.split_at(512 * 4);
    let values: Vec<f32> = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let mut bytes = Vec::new();
    encode_row(BlockFormat::Q8_0, &values, &mut bytes).unwrap();
    assert_eq!(bytes, blocks);
}

#[test]
fn eight_bits_are_off_by_half_a_step_at_most() {
    let values = weights(&mut Random(41), 4096);
    let back = decoded(BlockFormat::Q8_0, &values);
    for (block, back) in values.chunks_exact(32).zip(back.chunks_exact(32)) {
        let step = block.iter().fold(0f32, |largest, v| largest.max(v.abs())) / 127.0;
        for (value, back) in block.iter().zip(back) {
            assert!(
                (value - back).abs() <= step * 0.57,
                "{value} became {back}, steps of {step}"
            );
        }
    }
}

#[test]
fn four_bits_lose_less_than_plain_rounding() {
    let values = weights(&mut Random(42), 32 * 1000);
    for (format, most) in [(BlockFormat::Q4_0, 0.94), (BlockFormat::Q4_1, 0.83)] {
        let back = decoded(format, &values);
        let ratio = error(&values, &back) / plain_error(format, &values);
        assert!(ratio < most, "{format:?}: {ratio} of the plain error");
        for block in values.chunks_exact(32) {
            let (ours, plain) = (error(block, &decoded(format, block)), plain_error(format, block));
            assert!(
                ours <= plain * 1.000_01,
                "{format:?}: {ours} against {plain} for {block:?}"
            );
        }
    }
}

#[test]
fn four_bits_are_the_same_on_every_instruction_set() {
    let values = weights(&mut Random(43), 32 * 200);
    for encoding in [FourBits::Centred, FourBits::WithMinimum] {
        let of = |isa: Isa| {
            let (blocks, mut to) = (values.as_chunks().0, Vec::new());
            let to = &mut to;
            assert_eq!(isa.run(Encode { encoding, blocks, to }), None);
            std::mem::take(to)
        };
        let all: Vec<_> = Isa::available().into_iter().map(of).collect();
        assert!(all.iter().all(|bytes| *bytes == all[0]));
    }
}

#[test]
fn blocks_on_a_grid_come_back_as_they_were() {
    for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
        for step in [0.25f32, -0.25, 3.0, 0.0] {
            let grid: Vec<f32> = (0..64).map(|i| (i % 16 - 8) as f32 * step).collect();
            let back = decoded(format, &grid);
            if format == BlockFormat::Q8_0 {
                let close = grid.iter().zip(&back).all(|(a, b)| (a - b).abs() <= step.abs() * 0.04);
                assert!(close, "{grid:?} became {back:?}");
            } else {
                assert_eq!(back, grid, "{format:?}");
            }
        }
    }
}

#[test]
fn constant_and_tiny_blocks_survive() {
    for value in [0.0f32, 1.0, -0.375, 1e-9, -1e-30, f32::from_bits(1)] {
        for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
            for back in decoded(format, &[value; 32]) {
                let error = (back - value).abs();
                assert!(
                    error <= value.abs() * 1e-3 || error < 4e-8,
                    "{format:?}: {value} became {back}"
                );
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_refused_and_leaves_nothing() {
    let mut bytes = vec![1, 2, 3];
    let good = [1.0; 64];
    for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
        for (at, bad) in [(0, f32::NAN), (40, f32::INFINITY), (63, f32::NEG_INFINITY), (33, 1e30)] {
            let mut values = good;
            values[at] = bad;
            assert!(
                encode_row(format, &values, &mut bytes).is_err(),
                "{format:?} with {bad}"
            );
        }
        assert!(encode_row(format, &good[..33], &mut bytes).is_err());
    }
    assert!(encode_row(BlockFormat::Q4_K, &[0.0; 256], &mut bytes).is_err());
    assert_eq!(bytes, [1, 2, 3]);
    assert!(encode_row(BlockFormat::Q4_0, &[], &mut bytes).is_ok());
}
