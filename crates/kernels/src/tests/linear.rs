//! Products with every encoding.

use crate::testing::{FORMATS, Random, assert_close, contexts, product};
use crate::{
    Activations, BlockFormat, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};

/// How rows enter a product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rounding {
    None,
    Fine,
    /// In coarse groups from this row on.
    CoarseFrom(usize),
}

const COARSE: Rounding = Rounding::CoarseFrom(0);

pub(super) fn run(context: &mut Context, rounding: Rounding, x: &[f32], matrix: &PackedMatrix) -> Vec<f32> {
    let rows = x.len() / matrix.inputs();
    let (precision, coarse_from) = match rounding {
        Rounding::None => (Precision::F32, usize::MAX),
        Rounding::Fine => (Precision::Int8, usize::MAX),
        Rounding::CoarseFrom(row) => (Precision::Int8, row),
    };
    let mut activations = Activations::new(precision);
    let mut none = LowRankBatch::default();
    let source = Source {
        coarse_from,
        keep: matrix.takes_floats(),
        ..Source::dense(x, matrix.inputs(), None)
    };
    prepare(context, source, rows, &mut activations, &mut none);
    let mut out = vec![0.0; rows * matrix.outputs()];
    let parts = [Part {
        matrix,
        bias: None,
        column: 0,
    }];
    linear(
        context,
        &activations,
        &parts,
        &none,
        Then::Store,
        (&mut out, matrix.outputs()),
    );
    out
}

#[test]
fn products_match_the_reference_on_every_path() {
    let mut random = Random(1);
    for format in FORMATS {
        for (rows, inputs, outputs) in [
            (1usize, 32usize, 1usize),
            (1, 96, 64),
            (2, 64, 33),
            (7, 576, 192),
            (13, 64, 40),
            (30, 96, 17),
        ] {
            let inputs = inputs.next_multiple_of(format.block_len());
            let (matrix, weights) = random.matrix(format, outputs, inputs);
            let x = random.numbers(rows * inputs);
            let expected = product(&x, &weights, rows, inputs, outputs);
            for mut context in contexts() {
                let what = format!("{format:?} {rows} x {inputs} x {outputs} on {}", context.isa.name());
                for (rounding, tolerance) in [(Rounding::None, 2e-5), (Rounding::Fine, 0.08), (COARSE, 0.08)] {
                    let got = run(&mut context, rounding, &x, &matrix);
                    assert_close(&got, &expected, tolerance, &format!("{what} {rounding:?}"));
                }
            }
        }
    }
}

#[test]
fn integer_products_are_exact() {
    // Inputs that are whole steps of a scale of 1 (the largest is 127) lose nothing to rounding.
    let mut random = Random(2);
    for format in FORMATS {
        let inputs = format.block_len().max(128);
        let (matrix, weights) = random.matrix(format, 48, inputs);
        let mut x: Vec<f32> = (0..3 * inputs).map(|_| (random.bits() % 255) as f32 - 127.0).collect();
        x.chunks_exact_mut(32).for_each(|block| block[5] = 127.0);
        let expected = product(&x, &weights, 3, inputs, 48);
        for mut context in contexts() {
            assert_close(
                &run(&mut context, Rounding::Fine, &x, &matrix),
                &expected,
                4e-6,
                &format!("{format:?} on {}", context.isa.name()),
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_instruction_set_threads_or_batch() {
    let mut random = Random(3);
    for format in FORMATS {
        for rounding in [Rounding::Fine, Rounding::None, COARSE] {
            let inputs = format.block_len().max(96);
            let (matrix, _) = random.matrix(format, 200, inputs);
            let x = random.numbers(40 * inputs);
            let mut first: Option<Vec<f32>> = None;
            for mut context in contexts() {
                let whole = run(&mut context, rounding, &x, &matrix);
                assert_eq!(
                    &whole,
                    first.get_or_insert_with(|| whole.clone()),
                    "{format:?} {rounding:?} {}",
                    context.isa.name()
                );
                for rows in [1usize, 2, 3, 5, 6, 11, 12, 14] {
                    let part = run(&mut context, rounding, &x[7 * inputs..(7 + rows) * inputs], &matrix);
                    assert_eq!(
                        part,
                        whole[7 * 200..(7 + rows) * 200],
                        "{format:?} {rows} rows {}",
                        context.isa.name()
                    );
                }
            }
        }
    }
}

/// What a row comes to is its own affair, whatever stands around it in the batch.
#[test]
fn a_row_keeps_its_bits_among_any_others() {
    let mut random = Random(8);
    for format in FORMATS {
        let inputs = format.block_len().max(64);
        let (matrix, _) = random.matrix(format, 37, inputs);
        let row = random.numbers(inputs);
        for mut context in contexts() {
            for rounding in [Rounding::Fine, Rounding::None, COARSE] {
                let alone = run(&mut context, rounding, &row, &matrix);
                for _ in 0..6 {
                    let rows = random.bits() as usize % 30 + 1;
                    let at = random.bits() as usize % rows;
                    let mut x: Vec<f32> = random.numbers(rows * inputs).iter().map(|v| v * 100.0).collect();
                    x[at * inputs..][..inputs].copy_from_slice(&row);
                    let got = run(&mut context, rounding, &x, &matrix);
                    let what = format!("{format:?} {rounding:?} row {at} of {rows} on {}", context.isa.name());
                    assert_eq!(got[at * 37..][..37], alone, "{what}");
                }
            }
        }
    }
}

#[test]
fn fine_and_coarse_rows_keep_their_bits_beside_each_other() {
    let mut random = Random(9);
    for format in FORMATS {
        let inputs = format.block_len().max(160);
        let (matrix, _) = random.matrix(format, 70, inputs);
        let x = random.numbers(30 * inputs);
        for mut context in contexts() {
            let fine = run(&mut context, Rounding::Fine, &x, &matrix);
            let coarse = run(&mut context, COARSE, &x, &matrix);
            assert_eq!(fine == coarse, format.is_dense(), "{format:?}");
            for from in [1, 13, 29] {
                let mixed = run(&mut context, Rounding::CoarseFrom(from), &x, &matrix);
                assert_eq!(mixed[..from * 70], fine[..from * 70], "{format:?} from {from}");
                assert_eq!(mixed[from * 70..], coarse[from * 70..], "{format:?} from {from}");
            }
        }
    }
}

/// Weights of one magnitude are a whole number of steps; inputs beside one 250 times as large keep three digits.
#[test]
fn a_large_input_leaves_the_others_of_a_coarse_group_their_steps() {
    let block = |block: usize| {
        let scale = half::f16::from_f32(if block.is_multiple_of(2) { 0.5 } else { -0.5 });
        [&scale.to_le_bytes()[..], &[127; 32]].concat()
    };
    let row: Vec<u8> = (0..9).flat_map(block).collect();
    let matrix = PackedMatrix::pack(BlockFormat::Q8_0, 3, 288, |_| &row).unwrap();
    let mut random = Random(10);
    let mut x: Vec<f32> = random.numbers(17 * 288).iter().map(|x| 2.0 * x.signum()).collect();
    x.chunks_exact_mut(288).for_each(|row| row[100] = 500.0);
    let mut weights = vec![0.0; 3 * 288];
    for (output, weights) in weights.chunks_exact_mut(288).enumerate() {
        matrix.dequantize_row(output, weights);
    }
    let expected = product(&x, &weights, 17, 288, 3);
    let small: f64 = 287.0 * 2.0 * 63.5;
    for mut context in contexts() {
        let got = run(&mut context, COARSE, &x, &matrix);
        for (got, expected) in got.iter().zip(&expected) {
            assert!(
                (f64::from(*got) - expected).abs() < 1e-3 * small,
                "{got} for {expected}"
            );
        }
    }
}

#[test]
fn shapes_that_cannot_be_packed_are_refused() {
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 4, 33, |_| &[]).is_err());
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 0, 32, |_| &[]).is_err());
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 1, 32, |_| &[0; 33]).is_err());
}

#[test]
#[should_panic(expected = "share columns")]
fn maps_that_share_columns_are_refused() {
    let mut random = Random(7);
    let (matrix, _) = random.matrix(BlockFormat::Q8_0, 32, 32);
    let mut context = contexts().remove(0);
    let mut activations = Activations::new(Precision::Int8);
    let mut none = LowRankBatch::default();
    prepare(
        &mut context,
        Source::dense(&[1.0; 32], 32, None),
        1,
        &mut activations,
        &mut none,
    );
    let parts = [0, 16].map(|column| Part {
        matrix: &matrix,
        bias: None,
        column,
    });
    linear(
        &mut context,
        &activations,
        &parts,
        &none,
        Then::Store,
        (&mut [0.0; 48], 48),
    );
}
