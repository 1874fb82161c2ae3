use half::{bf16, f16};

use super::super::encode_groups;
use super::super::fit::Fit;
use super::*;
use crate::testing::Random;
use crate::{Isa, PackedMatrix};

const ZEROS: [ZeroPoint; 3] = [ZeroPoint::Middle, ZeroPoint::MiddleOfEitherSign, ZeroPoint::OfGroup];

fn formats() -> impl Iterator<Item = GroupFormat> {
    let scales = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    let each = move |(inputs, bits)| {
        ZEROS.into_iter().flat_map(move |zero| {
            scales.map(|scale| GroupFormat {
                inputs,
                bits,
                zero,
                scale,
            })
        })
    };
    [(16, 4), (32, 8), (64, 4), (128, 4), (128, 8)]
        .into_iter()
        .flat_map(each)
}

/// Bells, of which some lie on one side of zero.
fn values(random: &mut Random, count: usize) -> Vec<f32> {
    let bell = |random: &mut Random, at: usize| {
        random.numbers(6).iter().sum::<f32>() * 0.02 + if at / 128 % 4 == 3 { 0.1 } else { 0.0 }
    };
    (0..count).map(|at| bell(random, at)).collect()
}

fn rounded(grids: &[Grid], values: &[f32]) -> Vec<f32> {
    let groups = grids.iter().zip(values.chunks_exact(values.len() / grids.len()));
    let of = |(grid, values): (&Grid, &[f32])| -> Vec<f32> {
        let each = values.iter().enumerate();
        each.map(|(input, value)| grid.nearest(input, *value).1).collect()
    };
    groups.flat_map(of).collect()
}

fn error(values: &[f32], back: &[f32], weights: &[f32]) -> f64 {
    let pairs = values.iter().zip(back).zip(weights.iter().cycle());
    pairs
        .map(|((a, b), weight)| f64::from(*weight) * (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// What the ends of each group give: its largest magnitude at the last quant of its side, or its range with zero in it.
fn plain(format: GroupFormat, values: &[f32]) -> Vec<f32> {
    let most = f32::from(u8::MAX >> (8 - format.bits));
    let of_group = |group: &[f32]| {
        let low = group.iter().fold(0f32, |low, v| low.min(*v));
        let high = group.iter().fold(0f32, |high, v| high.max(*v));
        let half = (most + 1.0) / 2.0;
        let (step, zero) = match format.zero {
            ZeroPoint::Middle => ((-low / half).max(high / (half - 1.0)), half),
            ZeroPoint::MiddleOfEitherSign => (if -low > high { low } else { high } / -half, half),
            ZeroPoint::OfGroup => ((high - low) / most, (-low / ((high - low) / most)).round()),
        };
        let nearest = |v: &f32| (((v / step).round() + zero).clamp(0.0, most) - zero) * step;
        group.iter().map(nearest).collect::<Vec<_>>()
    };
    values.chunks_exact(format.inputs).flat_map(of_group).collect()
}

#[test]
fn groups_lose_less_than_what_their_ends_give() {
    let values = values(&mut Random(51), 128 * 64);
    for format in formats() {
        // Scales in bfloat16 are off by up to 1/512, which 8 bits feel.
        let most = match (format.bits, format.scale) {
            (4, _) => 0.95,
            (_, ElementType::Bf16) => 1.3,
            _ => 1.0,
        };
        let back = rounded(&Grid::fit_groups(format, &values, None).unwrap(), &values);
        let ratio = error(&values, &back, &[1.0]) / error(&values, &plain(format, &values), &[1.0]);
        assert!(ratio < most, "{format:?}: {ratio} of the plain error");
    }
}

#[test]
fn what_is_decoded_is_the_scale_times_the_quant_less_the_zero_point() {
    let values = values(&mut Random(52), 128 * 16);
    for format in formats() {
        let grids = Grid::fit_groups(format, &values, None).unwrap();
        for (grid, values) in grids.iter().zip(values.chunks_exact(format.inputs)) {
            let (scale, zero) = (grid.step(0), f32::from(grid.zero_point()));
            let kept = match format.scale {
                ElementType::F32 => scale,
                ElementType::F16 => f16::from_f32(scale).to_f32(),
                ElementType::Bf16 => bf16::from_f32(scale).to_f32(),
            };
            assert_eq!(scale, kept, "{format:?}");
            match format.zero {
                ZeroPoint::Middle => assert!(scale > 0.0 && zero == (1 << (format.bits - 1)) as f32),
                ZeroPoint::MiddleOfEitherSign => assert_eq!(zero, (1 << (format.bits - 1)) as f32),
                ZeroPoint::OfGroup => assert!(scale > 0.0 && zero <= f32::from(grid.most())),
            }
            for (input, value) in values.iter().enumerate() {
                let (quant, near) = grid.nearest(input, *value);
                let decoded = (f32::from(quant) - zero) * scale;
                assert!(quant <= grid.most() && (decoded - near).abs() <= scale.abs() * 1e-4);
            }
        }
    }
}

#[test]
fn importance_moves_the_grid_of_a_group() {
    let random = &mut Random(53);
    let values = values(random, 128 * 32);
    let importance: Vec<f32> = random.numbers(128).iter().map(|number| (number * 4.0).exp()).collect();
    for format in formats() {
        let loss = |importance| rounded(&Grid::fit_groups(format, &values, importance).unwrap(), &values);
        let [with, without] = [Some(&importance[..]), None].map(|given| error(&values, &loss(given), &importance));
        assert!(with < without * 0.95, "{format:?}: {with} with, {without} without");
    }
}

#[test]
fn groups_are_the_same_on_every_instruction_set() {
    let random = &mut Random(54);
    let values = values(random, 128 * 5);
    for format in formats() {
        let of = |isa: Isa| {
            let mut grids = Vec::new();
            let misfit = isa.run(Fit {
                encoding: Encoding::Group(format),
                shape: Shape::of_groups(format),
                values: &values,
                thorough: true,
                weights: &values.iter().map(|value| value.abs()).collect::<Vec<_>>(),
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
fn quants_are_written_with_the_earlier_input_in_the_low_nibble() {
    for (bits, expected) in [(4, &[0x21u8, 0x43, 0xF5][..]), (8, &[1, 2, 3, 4, 5, 15][..])] {
        let format = GroupFormat {
            inputs: 16,
            bits,
            zero: ZeroPoint::Middle,
            scale: ElementType::F32,
        };
        let grid = &Grid::fit_groups(format, &[0.0; 16], None).unwrap()[0];
        assert_eq!(grid.nearest(3, 0.0).1, 0.0);
        let mut quants = [0; 16];
        quants[..6].copy_from_slice(&[1, 2, 3, 4, 5, 15]);
        let mut bytes = Vec::new();
        grid.write(&quants, &mut bytes);
        assert_eq!(&bytes[..expected.len()], expected);
        assert_eq!(bytes.len(), 16 * bits as usize / 8);
    }
}

#[test]
fn blocks_hold_the_values_of_their_group() {
    let values = values(&mut Random(55), 128 * 6);
    for format in formats() {
        let mut bytes = vec![7];
        let written = encode_groups(format, &values, None, &mut bytes);
        let Some(blocks) = format.blocks() else {
            assert!(written.unwrap_err().0.contains("no blocks"));
            assert_eq!(bytes, [7]);
            continue;
        };
        written.unwrap();
        let matrix = PackedMatrix::pack(blocks, 1, values.len(), |_| &bytes[1..]).unwrap();
        let mut back = vec![0.0; values.len()];
        matrix.dequantize_row(0, &mut back);
        let grids = Grid::fit_groups(format, &values, None).unwrap();
        for ((back, expected), grid) in back
            .chunks_exact(format.inputs)
            .zip(rounded(&grids, &values).chunks_exact(format.inputs))
            .zip(&grids)
        {
            let near = back
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() <= grid.step(0).abs() * 1e-4);
            assert!(near, "{format:?}: {back:?} for {expected:?}");
        }
    }
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let format = GroupFormat {
        inputs: 32,
        bits: 4,
        zero: ZeroPoint::OfGroup,
        scale: ElementType::F16,
    };
    let refused = |format, values: &[f32], part: &str| {
        let error = Grid::fit_groups(format, values, None).unwrap_err();
        assert!(error.0.contains(part), "{error}");
    };
    refused(GroupFormat { bits: 3, ..format }, &[1.0; 32], "4 or 8 bits, got 3");
    refused(GroupFormat { inputs: 0, ..format }, &[], "got 0");
    refused(GroupFormat { inputs: 40, ..format }, &[1.0; 40], "got 40");
    refused(format, &[1.0; 40], "blocks of 32, got 40");
    refused(format, &[f32::NAN; 32], "value 0 is NaN");
    refused(format, &[1e30; 32], "too large");
    assert!(
        Grid::fit_groups(
            GroupFormat {
                scale: ElementType::Bf16,
                ..format
            },
            &[1e18; 32],
            None
        )
        .is_ok()
    );
}
