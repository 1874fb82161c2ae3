//! Log-probabilities from raw logits, as reported to callers.

use rootstock_model::text::TokenId;

use super::softmax;
use crate::request::TokenLogprobs;

/// Log-probability of `id` and of the `top` most likely tokens under a row of raw logits.
/// `None` if the row is no distribution: it holds a NaN, a positive infinity, or nothing finite.
pub(crate) fn score(logits: &[f32], id: TokenId, top: usize) -> Option<TokenLogprobs> {
    let max = softmax::max(logits);
    let log_sum = f64::from(max) + softmax::sum_exp(logits, max).ln();
    if !log_sum.is_finite() {
        return None;
    }
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let top = largest(logits, top)
        .into_iter()
        .map(|(id, logit)| (id, logprob(logit)))
        .collect();
    Some(TokenLogprobs {
        id,
        logprob: logprob(own),
        top,
    })
}

/// The `count` largest values, best first, ties by smaller id. One pass; `count` is small.
fn largest(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let count = count.min(logits.len());
    let mut best: Vec<(TokenId, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in (0..).zip(logits) {
        if best.len() == count && (logit <= floor || logit.is_nan()) {
            continue;
        }
        // Equal values keep their order of arrival, which is by id.
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (id, logit));
        best.truncate(count);
        floor = best[best.len() - 1].1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn logprobs_sum_to_one_and_come_best_first_with_ties_by_id() {
        let logits = [1.0, 3.0, 2.0, 3.0, -5.0];
        let score = |id, top| score(&logits, id, top).expect("finite logits");
        let scored = score(2, 5);
        let ids: Vec<u32> = scored.top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [1, 3, 2, 0, 4]);
        let total: f64 = scored.top.iter().map(|&(_, logprob)| f64::from(logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert_eq!(scored.logprob, scored.top[2].1);
        assert_eq!(score(1, 2).top.len(), 2);
        assert!(score(1, 0).top.is_empty());
    }

    #[test]
    fn what_is_no_distribution_has_no_logprobs() {
        for logits in [
            [f32::NAN; 3],
            [f32::NEG_INFINITY; 3],
            [0.0, f32::INFINITY, 0.0],
            [0.0, f32::NAN, 0.0],
        ] {
            assert_eq!(score(&logits, 0, 1), None);
        }
        assert_eq!(
            score(&[0.0, f32::NEG_INFINITY], 0, 0).map(|scored| scored.logprob),
            Some(0.0)
        );
    }
}
