//! BLEU of a corpus (Papineni et al., 2002), equal to sacrebleu's `corpus_bleu` with its defaults: mteval-v13a's
//! tokens, n-grams up to 4, exponential smoothing, one reference for each prediction.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::{ngrams, shared};

const ORDERS: usize = 4;

/// Counts over a corpus, from which its score follows; it is no mean of scores of sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bleu {
    /// N-grams of the predictions that their references have too, from 1-grams on.
    matched: [u64; ORDERS],
    /// N-grams of the predictions.
    predicted: [u64; ORDERS],
    /// Tokens of the references.
    reference: u64,
}

impl Bleu {
    /// One prediction.
    pub fn add(&mut self, prediction: &str, reference: &str) {
        let (prediction, reference) = (spaced(prediction), spaced(reference));
        let (prediction, reference) = (tokens(&prediction), tokens(&reference));
        for order in 1..=ORDERS {
            let found = ngrams(&prediction, order);
            self.matched[order - 1] += shared(&found, &ngrams(&reference, order));
            self.predicted[order - 1] += found.values().sum::<u64>();
        }
        self.reference += reference.len() as u64;
    }

    /// The score, 0 to 100. It is 0 where no prediction has four tokens, whatever matches.
    pub fn score(&self) -> f64 {
        if self.matched[0] == 0 || self.predicted.contains(&0) {
            return 0.0;
        }
        // The k-th order without a match counts as if 1 / 2^k of an n-gram had matched (Chen and Cherry, 2014, method
        // 3).
        let mut smoothed = 1.0;
        let mut log_precision = 0.0;
        for (&matched, &predicted) in self.matched.iter().zip(&self.predicted) {
            let matched = match matched {
                0 => {
                    smoothed /= 2.0;
                    smoothed
                }
                matched => matched as f64,
            };
            log_precision += (matched / predicted as f64).ln();
        }
        100.0 * self.brevity_penalty() * (log_precision / ORDERS as f64).exp()
    }

    /// Predictions that are shorter than their references would otherwise win by saying only what they are sure of.
    fn brevity_penalty(&self) -> f64 {
        let ratio = self.reference as f64 / self.predicted[0] as f64;
        if ratio > 1.0 { (1.0 - ratio).exp() } else { 1.0 }
    }
}

/// Steps of mteval-v13a: the expression and what it becomes. One after the other, each without overlaps, which is why
/// `...` is cut otherwise than a rule of characters would.
static CUTS: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    let cut = |pattern, replacement| (Regex::new(pattern).expect("a valid expression"), replacement);
    [
        // ASCII punctuation but ' , - .
        cut(r#"([ !-&(-+/:-@\[-`{-~])"#, " $1 "),
        cut("([^0-9])([.,])", "$1 $2 "),
        cut("([.,])([^0-9])", " $1 $2"),
        cut("([0-9])(-)", "$1 $2 "),
    ]
});

/// The text with spaces between its tokens.
pub(super) fn spaced(text: &str) -> String {
    let mut text = format!(" {} ", unescaped(text.trim_end_matches(is_space)));
    for (pattern, replacement) in CUTS.iter() {
        if let Cow::Owned(cut) = pattern.replace_all(&text, *replacement) {
            text = cut;
        }
    }
    text
}

/// The tokens of [`spaced`] text.
pub(super) fn tokens(spaced: &str) -> Vec<&str> {
    spaced.split(is_space).filter(|token| !token.is_empty()).collect()
}

/// Without the marks of the SGML files that the tokens were made for.
fn unescaped(text: &str) -> String {
    let steps = [
        ("<skipped>", ""),
        ("-\n", ""),
        ("\n", " "),
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let replaced = |text: String, (from, to): (&str, &str)| text.replace(from, to);
    steps.into_iter().fold(text.to_owned(), replaced)
}

/// White space as Python splits at: Unicode's and the four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}
