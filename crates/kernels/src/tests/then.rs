//! What becomes of products: biases, activations, gates, residuals.

use crate::testing::{Random, assert_close, contexts, product};
use crate::{
    Activation, Activations, BlockFormat, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear,
    prepare,
};

fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

/// Two maps side by side on `x`, added to ones.
fn run(context: &mut Context, x: &[f32], maps: [(&PackedMatrix, Option<&[f32]>); 2], then: Then) -> Vec<f32> {
    let width = maps[0].0.inputs();
    let rows = x.len() / width;
    let (mut activations, mut none) = (Activations::new(Precision::F32), LowRankBatch::default());
    prepare(
        context,
        Source::dense(x, width, None),
        rows,
        &mut activations,
        &mut none,
    );
    let stride = maps[0].0.outputs() + maps[1].0.outputs();
    let mut out = vec![1.0; rows * stride];
    let [first, second] = maps.map(|(matrix, bias)| Part {
        matrix,
        bias,
        column: 0,
    });
    let column = first.matrix.outputs();
    let parts = [first, Part { column, ..second }];
    linear(context, &activations, &parts, &none, then, (&mut out, stride));
    out
}

#[test]
fn biases_activations_and_gates_follow_their_definitions() {
    let mut random = Random(6);
    let all = [
        Then::Store,
        Then::Add,
        Then::Gate(Activation::Silu),
        Then::Gate(Activation::GeluTanh),
        Then::Activate(Activation::Silu),
        Then::Activate(Activation::GeluTanh),
        Then::Gate(Activation::Relu),
        Then::Activate(Activation::Relu),
    ];
    for (rows, outputs) in [(1, 64), (2, 45), (7, 1), (13, 33), (30, 19)] {
        let maps = [(); 2].map(|()| random.matrix(BlockFormat::Q8_0, outputs, 64));
        let biases = [(); 2].map(|()| random.numbers(outputs));
        let x = random.numbers(rows * 64);
        for (then, with_bias) in all.into_iter().flat_map(|then| [(then, false), (then, true)]) {
            let value = |map: usize, row: usize, output: usize| {
                let weights = &maps[map].1[output * 64..][..64];
                let bias = if with_bias { f64::from(biases[map][output]) } else { 0.0 };
                product(&x[row * 64..][..64], weights, 1, 64, 1)[0] + bias
            };
            let mut expected = Vec::new();
            for row in 0..rows {
                for map in 0..2 {
                    expected.extend((0..outputs).map(|output| {
                        let value_of = |map| value(map, row, output);
                        match then {
                            Then::Store => value_of(map),
                            Then::Add => 1.0 + value_of(map),
                            Then::Gate(activation) if map == 0 => act(activation, value_of(0)) * value_of(1),
                            Then::Gate(_) => value_of(1),
                            Then::Activate(activation) => act(activation, value_of(map)),
                        }
                    }));
                }
            }
            let mut bits: Option<Vec<f32>> = None;
            for mut context in contexts() {
                let [first, second] = [0, 1].map(|map| (&maps[map].0, with_bias.then_some(&biases[map][..])));
                let got = run(&mut context, &x, [first, second], then);
                let what = format!("{then:?} {rows} x {outputs} bias {with_bias} on {}", context.isa.name());
                assert_close(&got, &expected, 2e-5, &what);
                assert_eq!(&got, bits.get_or_insert_with(|| got.clone()), "{what}");
            }
        }
    }
}

/// The whole range, through a product with the identity.
#[test]
fn gelu_is_accurate_where_it_bends_and_where_it_ends() {
    let rows: Vec<Vec<u8>> = (0..32)
        .map(|output| {
            (0..32)
                .flat_map(|input| f32::from(u8::from(input == output)).to_le_bytes())
                .collect()
        })
        .collect();
    let identity = PackedMatrix::pack(BlockFormat::F32, 32, 32, |row| &rows[row]).unwrap();
    let mut x: Vec<f32> = (0..32 * 256).map(|i| (i as f32 - 4096.0) / 512.0).collect();
    x[..6].copy_from_slice(&[0.0, -0.0, 1e30, -1e30, 60.0, -60.0]);
    for mut context in contexts() {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            let got = run(&mut context, &x, [(&identity, None); 2], Then::Activate(activation));
            for (x, got) in x.chunks_exact(32).zip(got.chunks_exact(64)) {
                for (x, got) in x.iter().zip(&got[..32]) {
                    let expected = act(activation, f64::from(*x));
                    let error = (f64::from(*got) - expected).abs() / (1.0 + expected.abs());
                    assert!(
                        error < 1e-6 || *x < -1e29,
                        "{activation:?}({x}) = {got}, expected {expected}"
                    );
                }
            }
            let nan = run(
                &mut context,
                &[f32::NAN; 32],
                [(&identity, None); 2],
                Then::Activate(activation),
            );
            assert!(nan.iter().all(|value| value.is_nan()));
        }
    }
}

#[test]
#[should_panic(expected = "bias of map 1")]
fn a_bias_of_another_length_is_refused() {
    let mut random = Random(9);
    let (matrix, _) = random.matrix(BlockFormat::Q8_0, 32, 32);
    let mut context = contexts().remove(0);
    run(
        &mut context,
        &[1.0; 32],
        [(&matrix, None), (&matrix, Some(&[0.0; 31]))],
        Then::Store,
    );
}
