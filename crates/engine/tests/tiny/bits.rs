//! The same bits alone and in company, whole and in chunks, on one thread and on two.

use rootstock_engine::native::{ActivationPrecision, WeightPrecision};
use rootstock_engine::runner::AppliedAdapter;

use crate::model::{ARCHITECTURES, EXACT, Expected, Model, Sequence, Setup, fixture};

const SETUPS: [(ActivationPrecision, WeightPrecision); 8] = [
    (ActivationPrecision::F32, WeightPrecision::Stored),
    (ActivationPrecision::Int8, WeightPrecision::Stored),
    (ActivationPrecision::Int8, WeightPrecision::Eight),
    (ActivationPrecision::Int8, WeightPrecision::Four),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Stored),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Eight),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Four),
    (ActivationPrecision::Int16Prompts, WeightPrecision::Nf4),
];

fn model(arch: &str, threads: usize, (activations, weights): (ActivationPrecision, WeightPrecision)) -> Model {
    Model::open(
        arch,
        Setup {
            threads,
            activations,
            weights,
            ..EXACT
        },
    )
}

fn adapter(model: &Model, arch: &str, scale: f32) -> AppliedAdapter {
    model.adapter(&fixture("tiny").join(arch).join("adapter"), scale)
}

#[test]
fn chunks_and_threads_leave_the_bits_alone() {
    for (arch, setup) in ARCHITECTURES
        .into_iter()
        .flat_map(|arch| SETUPS.map(|setup| (arch, setup)))
    {
        let ids = Expected::of(arch).ids();
        let mut first = model(arch, 1, setup);
        let mut second = model(arch, 2, setup);
        let applied = [adapter(&first, arch, 1.0)];
        for adapters in [&[][..], &applied[..]] {
            let sequence = first.sequence(0, &ids, adapters);
            let whole = first.in_chunks(&sequence, ids.len());
            for chunk in [1, 5, 16, 17] {
                let same = first.in_chunks(&sequence, chunk) == whole;
                assert!(
                    same,
                    "{arch} {setup:?}: in chunks of {chunk}, {} adapters",
                    adapters.len()
                );
            }
            let same = second.in_chunks(&sequence, 7) == whole;
            assert!(same, "{arch} {setup:?}: on two threads, {} adapters", adapters.len());
        }
    }
}

/// Sequences of different lengths under different adapters, most tokens of them in two common steps.
fn together(model: &mut Model, sequences: &[(Sequence, usize)]) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); sequences.len()];
    let cuts = |length: usize| [0, length / 2, length - 1, length];
    for step in 0..3 {
        let parts: Vec<_> = sequences
            .iter()
            .map(|(sequence, length)| (sequence, cuts(*length)[step]..cuts(*length)[step + 1]))
            .collect();
        let mut values = model.step(&parts).into_iter();
        for (all, (_, range)) in logits.iter_mut().zip(&parts) {
            all.extend(values.by_ref().take(range.len() * 256));
        }
    }
    logits
}

#[test]
fn company_leaves_the_bits_alone() {
    for (arch, setup) in ARCHITECTURES
        .into_iter()
        .flat_map(|arch| SETUPS.map(|setup| (arch, setup)))
    {
        let ids = Expected::of(arch).ids();
        let mut model = model(arch, 2, setup);
        let whole = adapter(&model, arch, 1.0);
        let half = AppliedAdapter {
            scale: 0.5,
            ..whole.clone()
        };
        let both = [half, whole];
        let mixes: [&[AppliedAdapter]; 5] = [&[], &both[1..], &both[..1], &[], &both];
        let sequences: Vec<(Sequence, usize)> = mixes
            .iter()
            .zip([48, 33, 20, 3, 41])
            .enumerate()
            .map(|(index, (mix, length))| (model.sequence(index as u32, &ids[..length], mix), length))
            .collect();
        let got = together(&mut model, &sequences);
        for (index, ((sequence, length), got)) in sequences.iter().zip(&got).enumerate() {
            assert_eq!(got.len(), length * 256);
            let alone = model.in_chunks(sequence, *length);
            assert!(alone == *got, "{arch} {setup:?}: sequence {index}");
        }
        assert!(
            got[0][..20 * 256] != got[2][..20 * 256],
            "{arch}: the adapter changes nothing"
        );
    }
}
