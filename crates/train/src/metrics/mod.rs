//! How good a model is at a data set: numbers from log-probabilities, labels and texts. Pure: what a model was asked
//! and how it answered comes from the caller.
//!
//! The values are those of the packages that papers report: sacrebleu's for [`Bleu`], rouge-score's for [`Rouge`]
//! (without its stemmer, which no kept crate has in NLTK's variant), scikit-learn's for [`Confusion`].

mod bleu;
mod confusion;
mod likelihood;
mod rouge;
#[cfg(test)]
mod tests;

pub use bleu::Bleu;
pub use confusion::Confusion;
pub use likelihood::Likelihood;
pub use rouge::{Rouge, RougeScores};

use std::collections::HashMap;

/// Whether a text is the expected one, white space around both left aside: what is before a completion belongs to the
/// prompt, what is behind it to nobody.
pub fn exact_match(prediction: &str, reference: &str) -> bool {
    prediction.trim() == reference.trim()
}

/// How often each run of `order` tokens occurs.
fn ngrams<'a, 'b>(tokens: &'b [&'a str], order: usize) -> HashMap<&'b [&'a str], u64> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(order) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// Occurrences that two texts share, each counted as often as the text that has fewer of it.
fn shared(a: &HashMap<&[&str], u64>, b: &HashMap<&[&str], u64>) -> u64 {
    a.iter()
        .map(|(ngram, &count)| count.min(b.get(ngram).copied().unwrap_or(0)))
        .sum()
}
