//! How good a model is at a data set: numbers from log-probabilities, labels and texts. Pure: what a model was asked
//! and how it answered comes from the caller.
//!
//! The values are those of the packages that papers report: sacrebleu's for [`Bleu`], rouge-score's for [`Rouge`]
//! (with and without its stemmer, which is NLTK's variant of Porter's), scikit-learn's for [`Confusion`].

mod bleu;
mod confusion;
mod likelihood;
mod porter;
mod rouge;
#[cfg(test)]
mod tests;

pub use bleu::Bleu;
pub use confusion::Confusion;
pub use likelihood::Likelihood;
pub use rouge::{Rouge, RougeScores, Words};

use std::collections::HashMap;

/// Whether a text is the expected one, white space around both left aside: what is before a completion belongs to the
/// prompt, what is behind it to nobody.
pub fn exact_match(prediction: &str, reference: &str) -> bool {
    prediction.trim() == reference.trim()
}

/// How often each run of `order` tokens occurs.
fn ngrams<T: std::hash::Hash + Eq>(tokens: &[T], order: usize) -> HashMap<&[T], u64> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(order) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// Occurrences that two texts share, each counted as often as the text that has fewer of it.
fn shared<T: std::hash::Hash + Eq>(a: &HashMap<&[T], u64>, b: &HashMap<&[T], u64>) -> u64 {
    a.iter()
        .map(|(ngram, &count)| count.min(b.get(ngram).copied().unwrap_or(0)))
        .sum()
}
