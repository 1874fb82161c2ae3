//! The sampler against a plain reference that sorts the whole vocabulary, and its parameters one by one.

use super::{Draws, Sampler, SamplingParams, Scratch};

const VOCABULARY: usize = 997;

fn logits(seed: u64) -> Vec<f32> {
    let mut draws = Draws::new(seed, 0);
    (0..VOCABULARY)
        .map(|_| (draws.next_unit() as f32 - 0.5) * 16.0)
        .map(|logit| (logit * 8.0).round() / 8.0)
        .collect()
}

fn sample(params: &SamplingParams, logits: &[f32]) -> u32 {
    Sampler::new(params.clone(), &[])
        .sample(logits, &mut Scratch::default())
        .expect("finite logits")
}

/// Which tokens the parameters leave, by sorting everything in f64.
fn allowed(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let max = f64::from(logits[order[0] as usize]);
    let weight = |id: u32| ((f64::from(logits[id as usize]) - max) / f64::from(params.temperature)).exp();
    order.retain(|&id| weight(id) >= f64::from(params.min_p));
    order.truncate(params.top_k.unwrap_or(usize::MAX));
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut mass = 0.0;
    let kept = order.iter().position(|&id| {
        mass += weight(id);
        mass >= f64::from(params.top_p) * total * (1.0 - 1e-7)
    });
    order.truncate(kept.map_or(order.len(), |last| last + 1));
    order
}

#[test]
fn samples_stay_within_what_the_parameters_leave_and_reach_all_of_it() {
    let cases = [
        (1.0, None, 0.5, 0.0),
        (0.7, Some(5), 1.0, 0.0),
        (1.5, Some(40), 0.8, 0.0),
        (1.0, None, 1.0, 0.2),
        (1.0, Some(20), 0.9, 0.05),
        (2.0, None, 0.99, 0.0),
        (1.0, Some(1), 1.0, 0.0),
        (1.0, None, 0.0, 0.0),
    ];
    for (case, (temperature, top_k, top_p, min_p)) in cases.into_iter().enumerate() {
        let logits = logits(case as u64);
        let mut params = SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            ..SamplingParams::default()
        };
        let allowed = allowed(&params, &logits);
        let mut reached = std::collections::BTreeSet::new();
        for seed in 0..4_000 {
            params.seed = seed;
            let token = sample(&params, &logits);
            assert!(allowed.contains(&token), "case {case}: token {token} was cut off");
            reached.insert(token);
        }
        assert!(reached.contains(&allowed[0]));
        if allowed.len() <= 20 {
            assert_eq!(reached.len(), allowed.len(), "case {case}");
        }
    }
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let mut counts = [0u32; 4];
    for seed in 0..40_000 {
        counts[sample(
            &SamplingParams {
                seed,
                ..SamplingParams::default()
            },
            &logits,
        ) as usize] += 1;
    }
    for (count, logit) in counts.iter().zip(logits) {
        let expected = f64::from(logit).exp() / total;
        let observed = f64::from(*count) / 40_000.0;
        assert!(
            (observed - expected).abs() < 0.01,
            "expected {expected}, observed {observed}"
        );
    }
}

#[test]
fn greedy_takes_the_smaller_id_among_equals() {
    let params = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    assert_eq!(sample(&params, &[1.0, 5.0, 5.0, 2.0]), 1);
    let one = SamplingParams {
        top_k: Some(1),
        ..SamplingParams::default()
    };
    assert_eq!(sample(&one, &[1.0, 5.0, 5.0, 2.0]), 1);
}

#[test]
fn draws_depend_on_seed_and_step_alone() {
    let row = logits(3);
    let run = |seed| -> Vec<u32> {
        let mut sampler = Sampler::new(
            SamplingParams {
                seed,
                ..SamplingParams::default()
            },
            &[],
        );
        (0..20)
            .map(|_| sampler.sample(&row, &mut Scratch::default()).expect("finite logits"))
            .collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let first = run(1);
    assert!(first.iter().any(|token| *token != first[0]), "steps draw anew");
}

#[test]
fn bias_and_penalties_move_the_choice() {
    let greedy = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let row = [3.0f32, 2.5, 2.0, -1.0];
    let biased = SamplingParams {
        logit_bias: vec![(3, 100.0), (99, 100.0)],
        ..greedy.clone()
    };
    assert_eq!(sample(&biased, &row), 3);

    let run = |params: SamplingParams, prompt: &[u32]| -> Vec<u32> {
        let mut sampler = Sampler::new(params, prompt);
        (0..4)
            .map(|_| sampler.sample(&row, &mut Scratch::default()).expect("finite logits"))
            .collect()
    };
    assert_eq!(run(greedy.clone(), &[]), [0, 0, 0, 0]);
    assert_eq!(
        run(
            SamplingParams {
                presence_penalty: 0.75,
                ..greedy.clone()
            },
            &[]
        ),
        [0, 1, 0, 0]
    );
    assert_eq!(
        run(
            SamplingParams {
                frequency_penalty: 0.75,
                ..greedy.clone()
            },
            &[]
        ),
        [0, 1, 0, 2]
    );
    assert_eq!(
        run(
            SamplingParams {
                repetition_penalty: 2.0,
                ..greedy.clone()
            },
            &[0]
        ),
        [1, 2, 0, 0]
    );
    assert_eq!(
        run(
            SamplingParams {
                presence_penalty: 0.75,
                ..greedy
            },
            &[0]
        ),
        [0, 1, 0, 0]
    );
}

#[test]
fn logits_without_a_finite_value_choose_nothing() {
    let mut sampler = Sampler::new(SamplingParams::default(), &[]);
    assert_eq!(sampler.sample(&[f32::NAN; 3], &mut Scratch::default()), None);
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], &mut Scratch::default()), None);
}
