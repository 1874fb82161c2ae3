use crate::testing::{Random, assert_close, contexts, encode, product};
use crate::{
    Activations, BlockFormat, Context, ElementType, LowRankBatch, LowRankPair, LowRankTerm, PackedMatrix, Part,
    Precision, Source, Then, linear, prepare,
};

const FORMATS: [BlockFormat; 3] = [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0];

fn plain(values: &[f32], width: usize) -> Source<'_> {
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
            (1, 32, 1),
            (1, 96, 64),
            (2, 64, 33),
            (7, 576, 192),
            (13, 64, 40),
            (31, 96, 17),
        ] {
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
        let (matrix, weights) = random.matrix(format, 48, 128);
        let mut x: Vec<f32> = (0..3 * 128).map(|_| (random.bits() % 255) as f32 - 127.0).collect();
        x.chunks_exact_mut(32).for_each(|block| block[5] = 127.0);
        let expected = product(&x, &weights, 3, 128, 48);
        for mut context in contexts() {
            assert_close(
                &run(&mut context, Precision::Int8, &x, &matrix),
                &expected,
                2e-6,
                context.isa.name(),
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_instruction_set_threads_or_batch() {
    let mut random = Random(3);
    for format in FORMATS {
        for precision in [Precision::Int8, Precision::F32] {
            let (matrix, _) = random.matrix(format, 200, 96);
            let x = random.numbers(40 * 96);
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
                    let part = run(&mut context, precision, &x[7 * 96..(7 + rows) * 96], &matrix);
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

#[test]
fn rows_of_a_packed_matrix_come_back() {
    let mut random = Random(4);
    for format in FORMATS {
        let (matrix, weights) = random.matrix(format, 35, 64);
        for output in 0..35 {
            let mut row = vec![0.0; 64];
            matrix.dequantize_row(output, &mut row);
            assert_eq!(
                row,
                weights[output * 64..(output + 1) * 64],
                "{format:?} output {output}"
            );
        }
    }
}

struct Adapter {
    pair: LowRankPair,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn adapter(random: &mut Random, kind: ElementType, rank: usize, inputs: usize, outputs: usize) -> Adapter {
    let exact = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect() };
    let (a, b) = (
        exact(random.numbers(rank * inputs)),
        exact(random.numbers(outputs * rank)),
    );
    let pair = LowRankPair::pack(
        (kind, &encode(kind, &a)),
        (kind, &encode(kind, &b)),
        rank,
        (inputs, outputs),
    )
    .unwrap();
    Adapter { pair, a, b }
}

/// Outputs of the two maps of [`with_deltas`]: the first has groups of four column blocks and a rest, the second a tail.
const OUTPUTS: [usize; 2] = [144, 23];
const WIDTH: usize = OUTPUTS[0] + OUTPUTS[1];

/// What `linear` gives for two maps of [`OUTPUTS`] with the given terms (rows, part, adapter, scale).
fn with_deltas(
    context: &mut Context,
    x: &[f32],
    matrices: [&PackedMatrix; 2],
    terms: &[(std::ops::Range<usize>, usize, &Adapter, f32)],
) -> Vec<f32> {
    let rows = x.len() / 64;
    let mut deltas = LowRankBatch::default();
    for (rows, part, adapter, scale) in terms {
        deltas.push(LowRankTerm {
            rows: rows.clone(),
            part: *part,
            pair: &adapter.pair,
            scale: *scale,
        });
    }
    let mut activations = Activations::new(Precision::Int8);
    prepare(context, plain(x, 64), rows, &mut activations, &mut deltas);
    let mut out = vec![1.0; rows * WIDTH];
    let parts = [
        Part {
            matrix: matrices[0],
            bias: None,
            column: 0,
        },
        Part {
            matrix: matrices[1],
            bias: None,
            column: OUTPUTS[0],
        },
    ];
    linear(context, &activations, &parts, &deltas, Then::Add, (&mut out, WIDTH));
    out
}

#[test]
fn mixed_ranks_and_empty_segments_add_their_deltas() {
    let mut random = Random(5);
    let ((first, first_weights), (second, second_weights)) = (
        random.matrix(BlockFormat::Q4_1, OUTPUTS[0], 64),
        random.matrix(BlockFormat::Q4_1, OUTPUTS[1], 64),
    );
    let kinds = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    let adapters: Vec<[Adapter; 2]> = [1, 3, 8, 16, 21]
        .into_iter()
        .enumerate()
        .map(|(i, rank)| {
            [
                adapter(&mut random, kinds[i % 3], rank, 64, OUTPUTS[0]),
                adapter(&mut random, kinds[(i + 1) % 3], rank, 64, OUTPUTS[1]),
            ]
        })
        .collect();
    let x = random.numbers(9 * 64);
    // Rows 0-2 on adapter 0, 3 on the base, 4 on adapters 1 and 2, an empty segment, 5-8 on 3 (part 1 only) and 4.
    let spans = [
        (0..3, 0, 0.5),
        (4..5, 1, 1.0),
        (4..5, 2, -2.0),
        (5..5, 2, 1.0),
        (5..9, 4, 1.5),
    ];
    let mut terms: Vec<(std::ops::Range<usize>, usize, &Adapter, f32)> = vec![(5..9, 1, &adapters[3][1], 1.0)];
    for (rows, index, scale) in spans {
        terms.extend([0, 1].map(|part| (rows.clone(), part, &adapters[index][part], scale)));
    }
    let mut expected = vec![1.0; 9 * WIDTH];
    for (part, (weights, outputs, column)) in [
        (&first_weights, OUTPUTS[0], 0),
        (&second_weights, OUTPUTS[1], OUTPUTS[0]),
    ]
    .into_iter()
    .enumerate()
    {
        let base = product(&x, weights, 9, 64, outputs);
        for row in 0..9 {
            for output in 0..outputs {
                expected[row * WIDTH + column + output] += base[row * outputs + output];
            }
        }
        for (rows, _, adapter, scale) in terms.iter().filter(|term| term.1 == part) {
            for row in rows.clone() {
                let rank = adapter.pair.rank();
                let inner: Vec<f32> = product(&x[row * 64..(row + 1) * 64], &adapter.a, 1, 64, rank)
                    .iter()
                    .map(|v| *v as f32)
                    .collect();
                let delta = product(&inner, &adapter.b, 1, rank, outputs);
                for output in 0..outputs {
                    expected[row * WIDTH + column + output] += f64::from(*scale) * delta[output];
                }
            }
        }
    }
    let mut bits: Option<Vec<f32>> = None;
    for mut context in contexts() {
        let got = with_deltas(&mut context, &x, [&first, &second], &terms);
        assert_close(&got, &expected, 0.02, context.isa.name());
        assert_eq!(&got, bits.get_or_insert_with(|| got.clone()), "{}", context.isa.name());
        // A row alone gives the same bits.
        let alone: Vec<_> = terms
            .iter()
            .filter(|term| term.0.contains(&4))
            .map(|t| (0..1, t.1, t.2, t.3))
            .collect();
        let single = with_deltas(&mut context, &x[4 * 64..5 * 64], [&first, &second], &alone);
        assert_eq!(single, got[4 * WIDTH..5 * WIDTH]);
    }
}

#[test]
fn a_gate_multiplies_its_up_projection() {
    let mut random = Random(6);
    for outputs in [64, 45] {
        let ((gate, gate_weights), (up, up_weights)) = (
            random.matrix(BlockFormat::Q8_0, outputs, 64),
            random.matrix(BlockFormat::Q8_0, outputs, 64),
        );
        let x = random.numbers(5 * 64);
        let (g, u) = (
            product(&x, &gate_weights, 5, 64, outputs),
            product(&x, &up_weights, 5, 64, outputs),
        );
        let expected: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        for mut context in contexts() {
            let mut activations = Activations::new(Precision::F32);
            let mut none = LowRankBatch::default();
            prepare(&mut context, plain(&x, 64), 5, &mut activations, &mut none);
            let mut out = vec![0.0; 5 * 2 * outputs];
            let parts = [
                Part {
                    matrix: &gate,
                    bias: None,
                    column: 0,
                },
                Part {
                    matrix: &up,
                    bias: None,
                    column: outputs,
                },
            ];
            linear(
                &mut context,
                &activations,
                &parts,
                &none,
                Then::Gate(crate::Activation::Silu),
                (&mut out, 2 * outputs),
            );
            let got: Vec<f32> = out
                .chunks_exact(2 * outputs)
                .flat_map(|row| row[..outputs].to_vec())
                .collect();
            assert_close(&got, &expected, 1e-5, context.isa.name());
        }
    }
}

#[test]
fn shapes_that_cannot_be_packed_are_refused() {
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 4, 33, |_| &[]).is_err());
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 0, 32, |_| &[]).is_err());
    assert!(PackedMatrix::pack(BlockFormat::Q8_0, 1, 32, |_| &[0; 33]).is_err());
    assert!(LowRankPair::pack((ElementType::F32, &[0; 8]), (ElementType::F32, &[0; 8]), 1, (16, 16)).is_err());
    // A rank at which the sizes wrap around to nothing.
    assert!(LowRankPair::pack((ElementType::F32, &[]), (ElementType::F32, &[]), 1 << 60, (16, 16)).is_err());
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
