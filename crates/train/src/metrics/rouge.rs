//! ROUGE (Lin, 2004), equal to the F-measures of the rouge-score package without its stemmer: shared 1-grams, shared
//! 2-grams, and the longest common subsequence of the whole texts (its `rougeL`, not `rougeLsum`, which takes line by
//! line).

use super::{ngrams, shared};

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
    pub fn of(prediction: &str, reference: &str) -> Self {
        let (prediction, reference) = (prediction.to_lowercase(), reference.to_lowercase());
        let (prediction, reference) = (tokens(&prediction), tokens(&reference));
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
    sum: RougeScores,
    count: u64,
}

impl Rouge {
    /// One prediction.
    pub fn add(&mut self, prediction: &str, reference: &str) {
        let RougeScores {
            rouge_1,
            rouge_2,
            rouge_l,
        } = RougeScores::of(prediction, reference);
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
fn tokens(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).collect()
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
fn common_subsequence(a: &[&str], b: &[&str]) -> u64 {
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
