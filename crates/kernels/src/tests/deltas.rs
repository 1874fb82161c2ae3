//! What adapters add to products, in mixed batches.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::testing::{Random, assert_close, contexts, encode, product};
use crate::{
    Activations, BiasTerm, BlockFormat, ColumnFactors, Context, DenseTerm, ElementType, LowRankBatch, LowRankPair,
    LowRankTerm, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};

/// Inputs of the maps, one super-block.
const INPUTS: usize = 256;
/// Outputs of the two maps: the first has groups of four column blocks and a rest, the second a tail.
const OUTPUTS: [usize; 2] = [144, 23];
const WIDTH: usize = OUTPUTS[0] + OUTPUTS[1];

struct Pair {
    packed: LowRankPair,
    a: Vec<f32>,
    b: Vec<f32>,
}

/// One change to one map, with what a plain reference needs of it.
enum Change {
    /// Pair, scale, and factors on the delta by column.
    LowRank(Pair, f32, Option<Vec<f32>>),
    Factors(Vec<f32>),
    Shift(Vec<f32>),
    Dense(PackedMatrix, Vec<f32>, f32),
}

/// A change to the rows of a batch on one map.
type Applied<'a> = (Range<usize>, usize, &'a Change);

fn pair(random: &mut Random, kind: ElementType, rank: usize, outputs: usize) -> Change {
    let exact = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect() };
    let (a, b) = (
        exact(random.numbers(rank * INPUTS)),
        exact(random.numbers(outputs * rank)),
    );
    let sides = ((kind, &encode(kind, &a)[..]), (kind, &encode(kind, &b)[..]));
    let packed = LowRankPair::pack(sides.0, sides.1, rank, (INPUTS, outputs)).unwrap();
    let columns = rank.is_multiple_of(2).then(|| random.numbers(outputs));
    Change::LowRank(Pair { packed, a, b }, random.number(), columns)
}

fn dense(random: &mut Random, format: BlockFormat, outputs: usize) -> Change {
    let (matrix, weights) = random.matrix(format, outputs, INPUTS);
    Change::Dense(matrix, weights, random.number())
}

fn base(random: &mut Random, format: BlockFormat) -> [(PackedMatrix, Vec<f32>); 2] {
    OUTPUTS.map(|outputs| random.matrix(format, outputs, INPUTS))
}

fn push<'a>(deltas: &mut LowRankBatch<'a>, (rows, part, change): &Applied<'a>) {
    let (rows, part) = (rows.clone(), *part);
    match change {
        Change::LowRank(Pair { packed: pair, .. }, scale, columns) => deltas.push(LowRankTerm {
            rows,
            part,
            pair,
            scale: *scale,
            columns: columns.as_deref().map(Arc::from),
        }),
        Change::Factors(factors) => deltas.scale_columns(ColumnFactors {
            rows,
            part,
            factors: Arc::from(&factors[..]),
        }),
        Change::Shift(values) => deltas.shift(BiasTerm {
            rows,
            part,
            values: Cow::Owned(values.clone()),
        }),
        Change::Dense(matrix, _, scale) => deltas.dense(DenseTerm {
            rows,
            part,
            matrix,
            scale: *scale,
        }),
    }
}

/// What `linear` gives for two maps with the given changes, added to ones.
fn run(
    context: &mut Context,
    x: &[f32],
    maps: &[(PackedMatrix, Vec<f32>); 2],
    bias: Option<&[f32]>,
    changes: &[Applied<'_>],
) -> Vec<f32> {
    let rows = x.len() / INPUTS;
    let mut deltas = LowRankBatch::default().reuse();
    changes.iter().for_each(|change| push(&mut deltas, change));
    let mut activations = Activations::new(Precision::Int8);
    let source = Source {
        keep: maps.iter().any(|(matrix, _)| matrix.takes_floats()),
        ..Source::dense(x, INPUTS, None)
    };
    prepare(context, source, rows, &mut activations, &mut deltas);
    let mut out = vec![1.0; rows * WIDTH];
    let parts = [0, 1].map(|part| Part {
        matrix: &maps[part].0,
        bias: bias.map(|bias| &bias[part * OUTPUTS[0]..][..OUTPUTS[part]]),
        column: part * OUTPUTS[0],
    });
    linear(context, &activations, &parts, &deltas, Then::Add, (&mut out, WIDTH));
    out
}

/// The same in f64.
fn reference(
    x: &[f32],
    maps: &[(PackedMatrix, Vec<f32>); 2],
    bias: Option<&[f32]>,
    changes: &[Applied<'_>],
) -> Vec<f64> {
    let mut out = Vec::new();
    for (row, x) in x.chunks_exact(INPUTS).enumerate() {
        for part in 0..2 {
            let outputs = OUTPUTS[part];
            let of_row = || changes.iter().filter(move |c| c.1 == part && c.0.contains(&row));
            let mut y = product(x, &maps[part].1, 1, INPUTS, outputs);
            let mut add = |scale: f32, values: &[f64]| {
                y.iter_mut()
                    .zip(values)
                    .for_each(|(y, value)| *y += f64::from(scale) * value);
            };
            let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
            for (.., change) in of_row() {
                if let Change::Factors(factors) = change {
                    let scaled: Vec<f64> = wide(factors).iter().map(|factor| factor - 1.0).collect();
                    let base = product(x, &maps[part].1, 1, INPUTS, outputs);
                    add(1.0, &base.iter().zip(scaled).map(|(y, f)| y * f).collect::<Vec<_>>());
                }
            }
            add(1.0, &vec![1.0; outputs]);
            if let Some(bias) = bias {
                add(1.0, &wide(&bias[part * OUTPUTS[0]..][..outputs]));
            }
            for (.., change) in of_row() {
                match change {
                    Change::LowRank(pair, scale, columns) => {
                        let rank = pair.packed.rank();
                        let inner = product(x, &pair.a, 1, INPUTS, rank)
                            .iter()
                            .map(|v| *v as f32)
                            .collect::<Vec<_>>();
                        let mut delta = product(&inner, &pair.b, 1, rank, outputs);
                        for (value, factor) in delta.iter_mut().zip(columns.iter().flatten()) {
                            *value *= f64::from(*factor);
                        }
                        add(*scale, &delta);
                    }
                    Change::Factors(_) => {}
                    Change::Shift(values) => add(1.0, &wide(values)),
                    Change::Dense(_, weights, scale) => add(*scale, &product(x, weights, 1, INPUTS, outputs)),
                }
            }
            out.extend(y);
        }
    }
    out
}

/// Checks a batch on every path, and each of `alone` in it: the row's bits are those of the row by itself.
fn check(
    x: &[f32],
    maps: &[(PackedMatrix, Vec<f32>); 2],
    bias: Option<&[f32]>,
    changes: &[Applied<'_>],
    alone: &[usize],
) {
    let expected = reference(x, maps, bias, changes);
    let mut bits: Option<Vec<f32>> = None;
    for mut context in contexts() {
        let got = run(&mut context, x, maps, bias, changes);
        assert_close(&got, &expected, 0.04, context.isa.name());
        assert_eq!(&got, bits.get_or_insert_with(|| got.clone()), "{}", context.isa.name());
        for &row in alone {
            let of_row = changes.iter().filter(|change| change.0.contains(&row));
            let of_row: Vec<Applied<'_>> = of_row.map(|change| (0..1, change.1, change.2)).collect();
            let single = run(&mut context, &x[row * INPUTS..][..INPUTS], maps, bias, &of_row);
            assert_eq!(
                single,
                got[row * WIDTH..][..WIDTH],
                "row {row} on {}",
                context.isa.name()
            );
        }
    }
}

#[test]
fn mixed_ranks_and_empty_segments_add_their_deltas() {
    let mut random = Random(5);
    let maps = base(&mut random, BlockFormat::Q4_1);
    let kinds = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    let adapters: Vec<[Change; 2]> = [1, 3, 8, 16, 21]
        .into_iter()
        .enumerate()
        .map(|(i, rank)| [0, 1].map(|part| pair(&mut random, kinds[(i + part) % 3], rank, OUTPUTS[part])))
        .collect();
    let x = random.numbers(9 * INPUTS);
    // Rows 0-2 on adapter 0, 3 on the base, 4 on adapters 1 and 2, an empty segment, 5-8 on 3 (part 1 only) and 4.
    let mut changes: Vec<Applied<'_>> = vec![(5..9, 1, &adapters[3][1])];
    for (rows, index) in [(0..3, 0), (4..5, 1), (4..5, 2), (5..5, 2), (5..9, 4)] {
        changes.extend([0, 1].map(|part| (rows.clone(), part, &adapters[index][part])));
    }
    check(&x, &maps, None, &changes, &[2, 3, 4, 8]);
}

#[test]
fn every_rank_gives_a_row_the_same_bits_in_any_tile_of_rows() {
    let mut random = Random(25);
    let maps = base(&mut random, BlockFormat::Q8_0);
    let x = random.numbers(8 * INPUTS);
    let kinds = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    for rank in (1..=17).chain([31, 65]) {
        let change = [0, 1].map(|part| pair(&mut random, kinds[(rank + part) % 3], rank, OUTPUTS[part]));
        // Row 0 on the base, seven rows in tiles of several sizes.
        let changes = [0, 1].map(|part| (1..8, part, &change[part]));
        check(&x, &maps, None, &changes, &[0, 1, 4, 7]);
    }
}

#[test]
fn pairs_keep_16_bits_where_these_hold_every_value_and_all_values_where_not() {
    let values = |value: f32| [value, 1.0, -0.0, f32::NAN].repeat(4);
    // Finer than bfloat16, and then larger than a half.
    for (value, bytes) in [
        (1.0 + 1.0 / 128.0, 64),
        (1.0 + 1.0 / 1024.0, 64),
        (1e30f32, 64 + 32),
        (0.1, 96),
    ] {
        let a = encode(ElementType::F32, &values(value));
        let b = encode(ElementType::F32, &[1.0; 16]);
        let pair = LowRankPair::pack((ElementType::F32, &a), (ElementType::F32, &b), 1, (16, 16)).unwrap();
        assert_eq!(pair.bytes(), bytes, "{value}");
    }
}

#[test]
fn adapters_of_every_kind_share_a_batch() {
    let mut random = Random(15);
    for format in [BlockFormat::Q8_0, BlockFormat::Q6_K, BlockFormat::F32] {
        let maps = base(&mut random, format);
        let bias = random.numbers(WIDTH);
        let kinds: Vec<[Change; 2]> = vec![
            [0, 1].map(|part| Change::Factors(random.numbers(OUTPUTS[part]))),
            [0, 1].map(|part| Change::Factors(random.numbers(OUTPUTS[part]))),
            [0, 1].map(|part| Change::Shift(random.numbers(OUTPUTS[part]))),
            [0, 1].map(|part| pair(&mut random, ElementType::F16, 4, OUTPUTS[part])),
            [0, 1].map(|part| dense(&mut random, BlockFormat::F32, OUTPUTS[part])),
            [0, 1].map(|part| dense(&mut random, BlockFormat::F16, OUTPUTS[part])),
            [0, 1].map(|part| dense(&mut random, BlockFormat::Bf16, OUTPUTS[part])),
        ];
        let x = random.numbers(30 * INPUTS);
        // Factors are pushed out of order, row 1 and rows 20-29 have none of anything.
        let spans = [
            (12..19, 0),
            (0..1, 4),
            (2..9, 3),
            (2..9, 1),
            (2..9, 2),
            (9..12, 5),
            (9..12, 6),
            (9..12, 2),
            (10..10, 1),
            (19..20, 6),
            (9..10, 0),
        ];
        let mut changes: Vec<Applied<'_>> = Vec::new();
        for (rows, index) in spans {
            changes.extend([0, 1].map(|part| (rows.clone(), part, &kinds[index][part])));
        }
        for bias in [None, Some(&bias[..])] {
            check(&x, &maps, bias, &changes, &[0, 1, 5, 9, 11, 13, 19, 25]);
        }
    }
}

#[test]
fn rows_of_no_adapter_keep_the_bits_of_the_base() {
    let mut random = Random(16);
    let maps = base(&mut random, BlockFormat::Q4_K);
    let x = random.numbers(3 * INPUTS);
    let factors = [0, 1].map(|part| Change::Factors(random.numbers(OUTPUTS[part])));
    let changes = [(1..2, 0, &factors[0]), (1..2, 1, &factors[1])];
    for mut context in contexts() {
        let (base, mixed) = (
            run(&mut context, &x, &maps, None, &[]),
            run(&mut context, &x, &maps, None, &changes),
        );
        assert_eq!(
            (&base[..WIDTH], &base[2 * WIDTH..]),
            (&mixed[..WIDTH], &mixed[2 * WIDTH..])
        );
        assert_ne!(base[WIDTH..2 * WIDTH], mixed[WIDTH..2 * WIDTH]);
    }
}

#[test]
fn factors_on_the_same_rows_are_refused_and_on_others_are_not() {
    let on = |rows: Range<usize>, part: usize| ColumnFactors {
        rows,
        part,
        factors: Arc::from([1.0; 4]),
    };
    let held = [(4..6, 0), (0..2, 0), (2..4, 0), (3..5, 1), (6..6, 0)];
    for (rows, part, fits) in [
        (6..7, 0, true),
        (5..7, 0, false),
        (1..3, 0, false),
        (0..9, 0, false),
        (4..4, 0, true),
        (0..3, 1, true),
        (5..9, 1, true),
        (4..5, 1, false),
        (0..9, 2, true),
    ] {
        let outcome = std::panic::catch_unwind(|| {
            let mut deltas = LowRankBatch::default();
            held.iter()
                .for_each(|(rows, part)| deltas.scale_columns(on(rows.clone(), *part)));
            deltas.scale_columns(on(rows.clone(), part));
        });
        assert_eq!(outcome.is_ok(), fits, "{rows:?} of map {part}");
    }
}

#[test]
fn terms_that_do_not_fit_are_refused() {
    let mut random = Random(17);
    let maps = base(&mut random, BlockFormat::Q8_0);
    let x = random.numbers(2 * INPUTS);
    let (short, quantized) = (
        dense(&mut random, BlockFormat::F32, OUTPUTS[1] - 1),
        dense(&mut random, BlockFormat::Q8_0, OUTPUTS[0]),
    );
    let narrow = Change::Dense(random.matrix(BlockFormat::F32, OUTPUTS[0], 128).0, Vec::new(), 1.0);
    let (shift, factors) = (
        Change::Shift(vec![0.0; OUTPUTS[0]]),
        Change::Factors(vec![1.0; OUTPUTS[0]]),
    );
    let good = pair(&mut random, ElementType::F32, 2, OUTPUTS[0]);
    let misfits: [Applied<'_>; 11] = [
        (0..2, 1, &short),
        (0..2, 0, &quantized),
        (0..2, 0, &narrow),
        (0..2, 1, &shift),
        (0..2, 1, &factors),
        (1..3, 0, &shift),
        (1..3, 0, &factors),
        (1..3, 0, &good),
        (0..2, 2, &shift),
        (0..2, 2, &factors),
        (0..2, 2, &good),
    ];
    for (index, misfit) in misfits.into_iter().enumerate() {
        let outcome = std::panic::catch_unwind(|| run(&mut contexts()[0], &x, &maps, None, &[misfit]));
        assert!(outcome.is_err(), "misfit {index}");
    }
}

#[test]
fn pairs_that_cannot_be_packed_are_refused() {
    assert!(LowRankPair::pack((ElementType::F32, &[0; 8]), (ElementType::F32, &[0; 8]), 1, (16, 16)).is_err());
    // A rank at which the sizes wrap around to nothing.
    assert!(LowRankPair::pack((ElementType::F32, &[]), (ElementType::F32, &[]), 1 << 60, (16, 16)).is_err());
}
