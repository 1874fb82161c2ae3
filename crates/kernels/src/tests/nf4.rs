//! NF4 with double quantization: the bits of bitsandbytes, the size, and products on every path.

use super::linear::{Rounding, run};
use crate::testing::{Random, assert_close, contexts, product};
use crate::{Nf4Weights, PackedMatrix, ShapeError, encode_nf4};

/// Matrices of `weights` as bitsandbytes gives them back, by `fixtures/make_nf4.py`.
const GOLDEN: &[u8] = include_bytes!("fixtures/nf4.bin");
const SHAPES: [(usize, usize); 2] = [(33, 512), (34, 96)];

/// The formula of make_nf4.py.
fn weights(count: usize) -> Vec<f32> {
    let weight = |at: i64| {
        let drawn = [(7919, 31, 5), (104_729, 17, 11), (1_299_709, 7, 3)];
        let drawn = drawn.map(|(a, b, c)| (at * a + at * at * b + at / 64 * c) % 2003 - 1001);
        let size = if at / 64 % 37 == 5 { 0.0 } else { 1.0 };
        drawn.iter().sum::<i64>() as f32 * size * 2f32.powi(-(at / 64 % 3 + 14) as i32)
    };
    (0..count as i64).map(weight).collect()
}

fn encode(weights: &[f32]) -> Result<Nf4Weights, ShapeError> {
    let mut encoded = Nf4Weights::default();
    encode_nf4(weights, &mut encoded)?;
    Ok(encoded)
}

fn pack((outputs, inputs): (usize, usize), parts: &[&[f32]]) -> PackedMatrix {
    let parts: Vec<_> = parts.iter().map(|part| encode(part).unwrap()).collect();
    PackedMatrix::pack_nf4(outputs, inputs, &parts).unwrap()
}

#[test]
fn weights_come_back_as_the_bits_that_bitsandbytes_gives() {
    let mut golden = GOLDEN.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    for (outputs, inputs) in SHAPES {
        let weights = weights(outputs * inputs);
        let expected: Vec<u32> = golden.by_ref().take(weights.len()).collect();
        let (first, second) = weights.split_at(weights.len() / 2 / 64 * 64);
        for matrix in [
            pack((outputs, inputs), &[&weights]),
            pack((outputs, inputs), &[first, second]),
        ] {
            let mut row = vec![0.0f32; inputs];
            for (output, expected) in expected.chunks_exact(inputs).enumerate() {
                matrix.dequantize_row(output, &mut row);
                let got: Vec<u32> = row.iter().map(|value| value.to_bits()).collect();
                assert_eq!(got, expected, "output {output} of {outputs} x {inputs}");
            }
        }
    }
    assert_eq!(golden.next(), None);
}

#[test]
fn a_weight_takes_4_and_an_eighth_bits() {
    let (outputs, inputs) = (256, 1024);
    let matrix = pack((outputs, inputs), &[&weights(outputs * inputs)]);
    assert_eq!(
        matrix.bytes(),
        outputs * inputs / 2 + outputs * inputs / 64 + outputs * inputs / (64 * 256) * 4
    );
}

#[test]
fn products_are_those_of_the_weights_and_the_same_bits_everywhere() {
    let mut random = Random(61);
    for (rows, inputs, outputs) in [(1, 32, 64), (1, 576, 96), (7, 64, 33), (13, 96, 40), (40, 192, 70)] {
        let (matrix, weights) = random.nf4(outputs, inputs);
        let x = random.numbers(rows * inputs);
        let expected = product(&x, &weights, rows, inputs, outputs);
        let mut first: Option<Vec<f32>> = None;
        for mut context in contexts() {
            // Nothing is rounded but the weights, whatever the precision of rows is.
            for rounding in [Rounding::None, Rounding::Fine, Rounding::CoarseFrom(rows / 2)] {
                let got = run(&mut context, rounding, &x, &matrix);
                let what = format!("{rows} x {inputs} x {outputs}, {rounding:?} on {}", context.isa.name());
                assert_close(&got, &expected, 2e-5, &what);
                assert_eq!(&got, first.get_or_insert_with(|| got.clone()), "{what}");
                let alone = run(&mut context, rounding, &x[(rows - 1) * inputs..], &matrix);
                assert_eq!(alone, got[(rows - 1) * outputs..], "{what}: the last row alone");
            }
        }
    }
}

#[test]
fn what_is_no_number_or_no_whole_block_is_refused() {
    for (weights, reason) in [
        (vec![0.5; 63], "in blocks of 64, got 63"),
        (
            [vec![0.5; 70], vec![f32::NAN], vec![0.5; 57]].concat(),
            "weight 70 is NaN",
        ),
        ([vec![f32::INFINITY], vec![0.5; 63]].concat(), "weight 0 is inf"),
    ] {
        let error = encode(&weights).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let parts = [encode(&[0.5; 192]).unwrap()];
    for shape in [(2, 64), (0, 64), (12, 16), (192, 0), (usize::MAX, 64)] {
        let error = PackedMatrix::pack_nf4(shape.0, shape.1, &parts)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("got 192"), "{error}");
    }
    assert!(PackedMatrix::pack_nf4(0, 64, &[]).is_err());
    assert!(PackedMatrix::pack_nf4(6, 32, &parts).is_ok());
}
