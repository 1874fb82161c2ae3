//! ROUGE (Lin, 2004), equal to the F-measures of the rouge-score package with its stemmer or without: shared 1-grams, shared
//! 2-grams, and the longest common subsequence of the whole texts (its `rougeL`, not `rougeLsum`, which takes line by
//! line).

use std::borrow::Cow;

use super::porter::stem;
use super::{ngrams, shared};

/// What of a word is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Words {
    /// All of it.
    #[default]
    Whole,
    /// Its stem, where it has more than three letters.
    Stemmed,
}

/// F-measures, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RougeScores {
    /// Of tokens.
    pub rouge_1: f64,
    /// Of pairs of tokens.
    pub rouge_2: f64,
    /// Of the longest common subsequence.
    pub rouge_l: f64,
}

impl RougeScores {
    /// Of one prediction. Texts without letters or digits of ASCII have no tokens, and score 0.
    pub fn of(prediction: &str, reference: &str, words: Words) -> Self {
        let (prediction, reference) = (prediction.to_lowercase(), reference.to_lowercase());
        let (prediction, reference) = (tokens(&prediction, words), tokens(&reference, words));
        let overlap = |order| {
            let (predicted, expected) = (ngrams(&prediction, order), ngrams(&reference, order));
            let total = predicted.values().chain(expected.values()).sum();
            f_measure(shared(&predicted, &expected), total)
        };
        let common = common_subsequence(&prediction, &reference);
        Self {
            rouge_1: overlap(1),
            rouge_2: overlap(2),
            rouge_l: f_measure(common, (prediction.len() + reference.len()) as u64),
        }
    }
}

/// Scores summed over predictions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rouge {
    words: Words,
    sum: RougeScores,
    count: u64,
}

impl Rouge {
    /// No prediction yet.
    pub fn new(words: Words) -> Self {
        Self {
            words,
            ..Self::default()
        }
    }

    /// One prediction.
    pub fn add(&mut self, prediction: &str, reference: &str) {
        let RougeScores {
            rouge_1,
            rouge_2,
            rouge_l,
        } = RougeScores::of(prediction, reference, self.words);
        self.sum.rouge_1 += rouge_1;
        self.sum.rouge_2 += rouge_2;
        self.sum.rouge_l += rouge_l;
        self.count += 1;
    }

    /// The mean over predictions; `None` without any.
    pub fn mean(&self) -> Option<RougeScores> {
        let mean = |sum: f64| sum / self.count as f64;
        (self.count > 0).then(|| RougeScores {
            rouge_1: mean(self.sum.rouge_1),
            rouge_2: mean(self.sum.rouge_2),
            rouge_l: mean(self.sum.rouge_l),
        })
    }
}

/// Runs of ASCII letters and digits of text in lower case.
fn tokens(text: &str, words: Words) -> Vec<Cow<'_, str>> {
    let runs = text.split(|c: char| !c.is_ascii_alphanumeric());
    let runs = runs.filter(|run| !run.is_empty());
    match words {
        Words::Whole => runs.map(Cow::Borrowed).collect(),
        Words::Stemmed => runs.map(stemmed).collect(),
    }
}

/// Words of up to three letters stay as they are.
fn stemmed(word: &str) -> Cow<'_, str> {
    match word.len() {
        ..=3 => Cow::Borrowed(word),
        _ => Cow::Owned(stem(word)),
    }
}

/// The harmonic mean of precision and recall: of `matched` among what both texts have in sum.
fn f_measure(matched: u64, total: u64) -> f64 {
    if total == 0 {
        0.0
    } else {
        2.0 * matched as f64 / total as f64
    }
}

/// Length of the longest common subsequence. One row of the table at a time: texts may have thousands of tokens.
fn common_subsequence<T: PartialEq>(a: &[T], b: &[T]) -> u64 {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (index, other) in b.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(row[index])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}
