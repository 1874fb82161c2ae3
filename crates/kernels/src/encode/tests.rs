use super::fit::{Fit, Origin, Shape};
use super::grid::Encoding;
use super::*;
use crate::testing::Random;
use crate::{Isa, PackedMatrix};

/// Every encoding that is written here.
const WRITTEN: [BlockFormat; 10] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q2_K,
    BlockFormat::Q3_K,
    BlockFormat::Q4_K,
    BlockFormat::Q5_K,
    BlockFormat::Q6_K,
];

fn encoded(format: BlockFormat, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![7];
    encode_row(format, values, importance, &mut bytes).unwrap();
    assert_eq!(
        bytes.len(),
        1 + values.len() / format.block_len() * format.block_bytes()
    );
    bytes.split_off(1)
}

fn decode(format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let inputs = bytes.len() / format.block_bytes() * format.block_len();
    let matrix = PackedMatrix::pack(format, 1, inputs, |_| bytes).unwrap();
    let mut back = vec![0.0; inputs];
    matrix.dequantize_row(0, &mut back);
    back
}

/// What a row becomes.
fn decoded(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    decode(format, &encoded(format, values, None))
}

fn error(values: &[f32], back: &[f32]) -> f64 {
    let pairs = values.iter().zip(back);
    pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

fn weighted(importance: &[f32], values: &[f32], back: &[f32]) -> f64 {
    let pairs = values.iter().zip(back).zip(importance);
    pairs
        .map(|((a, b), weight)| f64::from(*weight) * (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// Values like weights: a bell with a few far out.
fn weights(random: &mut Random, count: usize) -> Vec<f32> {
    let bell = |random: &mut Random| random.numbers(6).iter().sum::<f32>() * 0.02;
    let value = |random: &mut Random| bell(random) * if random.bits().is_multiple_of(50) { 5.0 } else { 1.0 };
    (0..count).map(|_| value(random)).collect()
}

/// What rounding to the grid that the ends of each group give loses, as ggml does it in blocks of 32.
fn plain_error(format: BlockFormat, values: &[f32]) -> f64 {
    let shape = Shape::of(format).unwrap();
    let most = f32::from(shape.most);
    let half = |value: f32| f16::from_f32(value).to_f32();
    let of_group = |group: &[f32]| {
        let low = group.iter().fold(f32::MAX, |low, v| low.min(*v));
        let high = group.iter().fold(f32::MIN, |high, v| high.max(*v));
        let largest = if -low >= high { low } else { high };
        let (step, minimum) = match shape.origin {
            Origin::Zero { quant: zero, .. } => (half(largest / -f32::from(zero)), half(largest)),
            _ => (half((high - low) / most), half(low)),
        };
        let nearest = |v: &f32| ((v - minimum) / step).round().clamp(0.0, most) * step + minimum;
        error(group, &group.iter().map(nearest).collect::<Vec<_>>())
    };
    values.chunks_exact(shape.group).map(of_group).sum()
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
    encode_row(BlockFormat::Q8_0, &values, None, &mut bytes).unwrap();
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
fn blocks_lose_less_than_plain_rounding() {
    let values = weights(&mut Random(42), 32 * 1000);
    for (format, most) in [
        (BlockFormat::Q4_0, 0.94),
        (BlockFormat::Q4_1, 0.83),
        (BlockFormat::Q5_0, 0.97),
        (BlockFormat::Q5_1, 0.92),
    ] {
        let back = decoded(format, &values);
        let ratio = error(&values, &back) / plain_error(format, &values);
        assert!(ratio < most, "{format:?}: {ratio} of the plain error");
        for block in values.chunks_exact(32) {
            let (ours, plain) = (error(block, &decoded(format, block)), plain_error(format, block));
            // A thorough search lets large values weigh more than this measure does.
            let thorough = matches!(format, BlockFormat::Q5_0 | BlockFormat::Q5_1);
            let most = if thorough { 1.25 } else { 1.000_01 };
            assert!(ours <= plain * most, "{format:?}: {ours} against {plain} for {block:?}");
        }
    }
}

#[test]
fn super_blocks_lose_little_more_than_groups_with_scales_of_their_own() {
    let values = weights(&mut Random(44), 256 * 60);
    // Plain rounding has an f16 step for each group here, and an f16 minimum.
    for (format, most) in [
        (BlockFormat::Q2_K, 0.9),
        (BlockFormat::Q3_K, 0.95),
        (BlockFormat::Q4_K, 0.9),
        (BlockFormat::Q5_K, 0.97),
        (BlockFormat::Q6_K, 1.03),
    ] {
        let ratio = error(&values, &decoded(format, &values)) / plain_error(format, &values);
        assert!(ratio < most, "{format:?}: {ratio} of the plain error");
    }
}

/// Importance of many magnitudes.
fn importance(random: &mut Random, count: usize) -> Vec<f32> {
    random
        .numbers(count)
        .iter()
        .map(|number| (number * 4.0).exp())
        .collect()
}

#[test]
fn inputs_of_importance_are_served_at_the_cost_of_others() {
    let random = &mut Random(45);
    let (values, importance) = (weights(random, 256 * 40), importance(random, 256));
    let all = importance.repeat(40);
    for format in WRITTEN {
        let without = decoded(format, &values);
        let with = decode(format, &encoded(format, &values, Some(&importance)));
        let ratio = weighted(&all, &values, &with) / weighted(&all, &values, &without);
        let most = if format == BlockFormat::Q8_0 { 0.97 } else { 0.85 };
        assert!(ratio < most, "{format:?}: {ratio} of the weighted error");
        let alike = decode(format, &encoded(format, &values, Some(&[3.0; 256])));
        let (alike, without) = (error(&values, &alike), error(&values, &without));
        // Q4_0 and Q4_1 are searched otherwise without: large values then weigh as others do.
        assert!(
            alike <= without * 1.04,
            "{format:?}: importance for all alike loses {alike}, none {without}"
        );
    }
}

#[test]
fn inputs_that_never_matter_are_still_rounded_to_what_is_near() {
    let values = weights(&mut Random(46), 512);
    let mut importance = vec![0.0; 512];
    // A whole super-block without any, one with a single input, and ends of f32.
    for importance in [importance.clone(), {
        importance[300] = f32::MAX;
        importance[301] = f32::from_bits(1);
        importance
    }] {
        for format in WRITTEN {
            let back = decode(format, &encoded(format, &values, Some(&importance)));
            let (error, size) = (error(&values[..256], &back[..256]), error(&values[..256], &[0.0; 256]));
            assert!(error < 0.2 * size, "{format:?}: {error} of {size}");
            assert!(back.iter().all(|value| value.abs() < 1.0), "{format:?}: {back:?}");
        }
    }
}

#[test]
fn grids_are_the_same_on_every_instruction_set() {
    let random = &mut Random(43);
    let (values, weights) = (weights(random, 256 * 5), importance(random, 256));
    for format in WRITTEN {
        let of = |isa: Isa| {
            let (shape, mut grids) = (Shape::of(format).unwrap(), Vec::new());
            let misfit = isa.run(Fit {
                encoding: Encoding::Block(format),
                shape,
                values: &values,
                thorough: true,
                weights: &weights,
                to: &mut grids,
            });
            assert_eq!(misfit, None);
            grids
        };
        let all: Vec<_> = Isa::available().into_iter().map(of).collect();
        assert!(all.iter().all(|grids| *grids == all[0]), "{format:?}");
    }
}

#[test]
fn a_block_does_not_depend_on_its_neighbours() {
    let random = &mut Random(47);
    let (values, importance) = (weights(random, 512 * 7), importance(random, 512));
    for format in WRITTEN {
        let rows = encoded(format, &values, Some(&importance));
        let block = format.block_len();
        let blocks = values.chunks_exact(block).zip(importance.chunks_exact(block).cycle());
        let apart = blocks.flat_map(|(values, importance)| encoded(format, values, Some(importance)));
        assert!(apart.eq(rows), "{format:?}");
    }
}

#[test]
fn rounding_to_grids_one_input_after_another_gives_the_same_bytes() {
    let random = &mut Random(48);
    let (values, importance) = (weights(random, 512), importance(random, 512));
    for format in WRITTEN {
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        let grids = Grid::fit(format, &values, Some(&importance)).unwrap();
        for (grid, values) in grids.iter().zip(values.chunks_exact(format.block_len())) {
            let mut quants = Vec::new();
            for (input, value) in values.iter().enumerate() {
                let (quant, near) = grid.nearest(input, *value);
                let [least, most] = [0, grid.most()].map(|q| grid.step(input) * f32::from(q) + grid.minimum(input));
                let inside = value.clamp(least.min(most), least.max(most));
                assert!((near - inside).abs() <= grid.step(input).abs() * 0.5001);
                quants.push(quant);
                back.push(near);
            }
            grid.write(&quants, &mut bytes);
        }
        assert_eq!(bytes, encoded(format, &values, Some(&importance)), "{format:?}");
        assert_eq!(back, decode(format, &bytes), "{format:?}");
        // What an error carried on makes of a value may be anything.
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38] {
            assert!(grids[0].nearest(0, value).0 <= grids[0].most(), "{format:?}");
        }
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
fn every_encoding_takes_what_it_wrote_itself() {
    let values = weights(&mut Random(49), 1024);
    for format in WRITTEN {
        let back = decoded(format, &values);
        let again = decoded(format, &back);
        let (lost, before) = (error(&back, &again), error(&values, &back));
        assert!(lost < before * 0.05, "{format:?}: {lost} after {before}");
    }
}

#[test]
fn constant_and_tiny_blocks_survive() {
    for value in [0.0f32, 1.0, -0.375, 1e-9, -1e-30, f32::from_bits(1)] {
        for format in WRITTEN {
            for back in decoded(format, &[value; 256]) {
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
    let good = [1.0; 512];
    let mut refused = |format, values: &[f32], importance: Option<&[f32]>, part: &str| {
        let error = encode_row(format, values, importance, &mut bytes).unwrap_err();
        assert!(error.0.contains(part), "{format:?}: {error}");
        assert_eq!(bytes, [1, 2, 3]);
    };
    for format in WRITTEN {
        for (at, bad) in [(0, f32::NAN), (40, f32::INFINITY), (63, f32::NEG_INFINITY)] {
            let mut values = good;
            values[at] = bad;
            refused(format, &values, None, &format!("value {at} is {bad}"));
            refused(
                format,
                &good,
                Some(&values[..256]),
                &format!("importance of input {at} is {bad}"),
            );
        }
        let mut values = good;
        values[511] = 1e30;
        let first = 512 - format.block_len();
        refused(format, &values, None, &format!("values from {first} on are too large"));
        values[511] = -1e30;
        refused(
            format,
            &values,
            Some(&good),
            &format!("values from {first} on are too large"),
        );
        refused(format, &good[..257], None, "got 257");
        refused(format, &good, Some(&good[..255]), "got 255");
        refused(format, &good, Some(&good[..0]), "got 0");
        refused(format, &good, Some(&[-1.0; 512]), "input 0 is -1");
    }
    refused(BlockFormat::F16, &good, None, "F16");
    refused(BlockFormat::I4, &good, None, "I4");
    assert!(encode_row(BlockFormat::Q4_0, &[], None, &mut bytes).is_ok());
}
