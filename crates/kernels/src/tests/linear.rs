//! Products with every encoding.

use crate::testing::{FORMATS, Random, assert_close, contexts, product};
use crate::{
    Activations, BlockFormat, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};

pub(super) fn plain(values: &[f32], width: usize) -> Source<'_> {
    Source {
        values,
        stride: width,
        width,
        norm: None,
    }
}

pub(super) fn run(context: &mut Context, precision: Precision, x: &[f32], matrix: &PackedMatrix) -> Vec<f32> {
    let rows = x.len() / matrix.inputs();
    let mut activations = Activations::new(precision);
    let mut none = LowRankBatch::default();
    prepare(context, plain(x, matrix.inputs()), rows, &mut activations, &mut none);
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
                assert_close(&run(&mut context, Precision::F32, &x, &matrix), &expected, 2e-5, &what);
                assert_close(&run(&mut context, Precision::Int8, &x, &matrix), &expected, 0.08, &what);
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
                &run(&mut context, Precision::Int8, &x, &matrix),
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
        for precision in [Precision::Int8, Precision::F32] {
            let inputs = format.block_len().max(96);
            let (matrix, _) = random.matrix(format, 200, inputs);
            let x = random.numbers(40 * inputs);
            let mut first: Option<Vec<f32>> = None;
            for mut context in contexts() {
                let whole = run(&mut context, precision, &x, &matrix);
                assert_eq!(
                    &whole,
                    first.get_or_insert_with(|| whole.clone()),
                    "{format:?} {precision:?} {}",
                    context.isa.name()
                );
                for rows in [1usize, 2, 3, 5, 6, 11, 12, 14] {
                    let part = run(&mut context, precision, &x[7 * inputs..(7 + rows) * inputs], &matrix);
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
            for precision in [Precision::Int8, Precision::F32] {
                let alone = run(&mut context, precision, &row, &matrix);
                for _ in 0..6 {
                    let rows = random.bits() as usize % 30 + 1;
                    let at = random.bits() as usize % rows;
                    let mut x: Vec<f32> = random.numbers(rows * inputs).iter().map(|v| v * 100.0).collect();
                    x[at * inputs..][..inputs].copy_from_slice(&row);
                    let got = run(&mut context, precision, &x, &matrix);
                    let what = format!("{format:?} {precision:?} row {at} of {rows} on {}", context.isa.name());
                    assert_eq!(got[at * 37..][..37], alone, "{what}");
                }
            }
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
    prepare(&mut context, plain(&[1.0; 32], 32), 1, &mut activations, &mut none);
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
