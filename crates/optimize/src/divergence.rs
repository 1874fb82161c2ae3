//! How far one model's next-token distribution is from another's on the same tokens: what a quantized, merged or adapted model
//! has lost or changed, in numbers that need no labels.

use rootstock_kernels::{Context, LogitPairs, RowDivergence, divergence};

use crate::OptimizeError;

/// Distances of single tokens, gathered over a text.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    rows: Vec<RowDivergence>,
}

/// A mean over tokens and its standard error, as if tokens were independent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Standard deviation over the root of the number of tokens; 0 for a single one.
    pub standard_error: f64,
}

/// What the distances of a text amount to. Logarithms are natural: distances are in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Tokens that were predicted.
    pub tokens: u64,
    /// KL(source || other): what is lost on average by predicting with the other what the source would say.
    pub kl: Mean,
    /// What 99 of 100 tokens do not exceed of it.
    pub kl_p99: f64,
    /// Its largest.
    pub kl_max: f64,
    /// Share of tokens where both find the same one likeliest, 0 to 1.
    pub top_agreement: f64,
    /// Mean distance of the log-probabilities of the tokens that follow in the text.
    pub logprob_distance: f64,
    /// Perplexity of the source, its error to first order.
    pub source: Mean,
    /// Perplexity of the other.
    pub other: Mean,
}

impl Divergence {
    /// Adds rows of logits, in the order of the text.
    ///
    /// # Errors
    /// Logits that are not finite.
    ///
    /// # Panics
    /// As [`divergence`].
    pub fn add(&mut self, context: &mut Context, pairs: LogitPairs<'_>) -> Result<(), OptimizeError> {
        let start = self.rows.len();
        self.rows.resize(start + pairs.targets.len(), RowDivergence::default());
        let added = &mut self.rows[start..];
        divergence(context, pairs, added);
        match added.iter().position(|row| !row.kl.is_finite()) {
            Some(row) => {
                let columns = pairs.source.len() / pairs.targets.len();
                let source = &pairs.source[row * columns..(row + 1) * columns];
                Err(OptimizeError::NotFinite {
                    model: match source.iter().all(|logit| logit.is_finite()) {
                        true => "other model",
                        false => "source",
                    },
                    position: (start + row) as u64,
                })
            }
            None => Ok(()),
        }
    }

    /// What they amount to; `None` without any.
    pub fn comparison(&self) -> Option<Comparison> {
        let rows = self.rows.len() as f64;
        let perplexity = |of: usize| Mean::of(self.rows.iter().map(|row| -row.logprobs[of])).map(Mean::exp);
        // It is not negative; what is less is rounding.
        let kl = || self.rows.iter().map(|row| row.kl.max(0.0));
        let mut sorted: Vec<f64> = kl().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let agreeing = self.rows.iter().filter(|row| row.same_top).count();
        let distance = |row: &RowDivergence| (row.logprobs[0] - row.logprobs[1]).abs();
        Some(Comparison {
            tokens: self.rows.len() as u64,
            kl: Mean::of(kl())?,
            kl_p99: sorted[(sorted.len() * 99).div_ceil(100) - 1],
            kl_max: *sorted.last()?,
            top_agreement: agreeing as f64 / rows,
            logprob_distance: self.rows.iter().map(distance).sum::<f64>() / rows,
            source: perplexity(0)?,
            other: perplexity(1)?,
        })
    }
}

impl Mean {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let count = values.clone().count() as f64;
        if count == 0.0 {
            return None;
        }
        let value = values.clone().sum::<f64>() / count;
        let squares = values.map(|each| (each - value).powi(2)).sum::<f64>();
        let variance = squares / (count - 1.0).max(1.0);
        Some(Self {
            value,
            standard_error: (variance / count).sqrt(),
        })
    }

    /// Of the exponential, by the derivative.
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self {
            value,
            standard_error: value * self.standard_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use rootstock_kernels::{Isa, ThreadPool};

    use super::*;

    fn context(threads: usize) -> Context {
        Context {
            pool: ThreadPool::new(threads).unwrap(),
            isa: Isa::detect().unwrap(),
        }
    }

    /// Numbers that are spread, the same each time.
    fn logits(count: usize, seed: f64) -> Vec<f32> {
        (0..count)
            .map(|index| (4.0 * (index as f64 * 12.9898 + seed).sin()) as f32)
            .collect()
    }

    fn log_softmax(row: &[f32]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        row.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
    }

    fn likeliest(row: &[f64]) -> usize {
        (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    }

    fn mean(values: &[f64]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, (variance / count).sqrt())
    }

    #[track_caller]
    fn assert_near(got: f64, expected: f64) {
        assert!(
            (got - expected).abs() <= 2e-6 * expected.abs(),
            "{got} is not {expected}"
        );
    }

    #[test]
    fn a_comparison_is_what_its_definition_says_however_the_rows_come() {
        let (rows, columns) = (250, 37);
        let source = logits(rows * columns, 0.0);
        let change = logits(rows * columns, 1.0);
        let other: Vec<f32> = source.iter().zip(change).map(|(a, b)| a + 0.2 * b).collect();
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % columns as u32).collect();
        let mut gathered = Vec::new();
        for (threads, at_once) in [(1, rows), (3, 7)] {
            let (mut divergence, mut context) = (Divergence::default(), context(threads));
            for (index, targets) in targets.chunks(at_once).enumerate() {
                let start = index * at_once * columns;
                let range = start..start + targets.len() * columns;
                let (source, other) = (&source[range.clone()], &other[range]);
                let pairs = LogitPairs { source, other, targets };
                divergence.add(&mut context, pairs).unwrap();
            }
            gathered.push(divergence.comparison().unwrap());
        }
        assert_eq!(gathered[0], gathered[1]);
        let rows = source.chunks(columns).zip(other.chunks(columns)).zip(&targets);
        let (mut kl, mut shift, mut agreeing, mut losses) = (Vec::new(), Vec::new(), 0, [Vec::new(), Vec::new()]);
        for ((source, other), &target) in rows {
            let (p, q) = (log_softmax(source), log_softmax(other));
            kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            agreeing += usize::from(likeliest(&p) == likeliest(&q));
            let target = target as usize;
            shift.push((p[target] - q[target]).abs());
            losses[0].push(-p[target]);
            losses[1].push(-q[target]);
        }
        let got = gathered[0];
        assert_eq!(got.tokens, 250);
        assert_eq!(got.top_agreement, agreeing as f64 / 250.0);
        assert!(agreeing > 0 && agreeing < 250, "{agreeing}");
        let (value, error) = mean(&kl);
        assert_near(got.kl.value, value);
        assert_near(got.kl.standard_error, error);
        for (got, losses) in [(got.source, &losses[0]), (got.other, &losses[1])] {
            let (value, error) = mean(losses);
            assert_near(got.value, value.exp());
            assert_near(got.standard_error, value.exp() * error);
        }
        assert_near(got.logprob_distance, mean(&shift).0);
        kl.sort_by(f64::total_cmp);
        assert_near(got.kl_p99, kl[247]);
        assert_near(got.kl_max, kl[249]);
    }

    #[test]
    fn a_model_is_at_no_distance_from_itself() {
        let (logits, mut divergence) = (logits(5 * 100, 2.0), Divergence::default());
        let pairs = LogitPairs {
            source: &logits,
            other: &logits,
            targets: &[0, 1, 2, 3, 99],
        };
        divergence.add(&mut context(2), pairs).unwrap();
        let comparison = divergence.comparison().unwrap();
        assert_eq!((comparison.kl.value, comparison.kl_max), (0.0, 0.0));
        assert_eq!((comparison.top_agreement, comparison.logprob_distance), (1.0, 0.0));
        assert_eq!(comparison.source, comparison.other);
    }

    #[test]
    fn logits_that_are_not_finite_are_refused_with_their_model_and_place() {
        let good = logits(3 * 20, 0.0);
        let targets = [0, 1, 2];
        for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let mut broken = good.clone();
            broken[2 * 20 + 19] = bad;
            for (source, other, model) in [(&broken, &good, "source"), (&good, &broken, "other model")] {
                let (mut divergence, mut context) = (Divergence::default(), context(1));
                let mut add = |source, other| {
                    let targets = &targets;
                    divergence.add(&mut context, LogitPairs { source, other, targets })
                };
                add(&good, &good).unwrap();
                let message = add(source, other).unwrap_err().to_string();
                assert!(message.contains(model) && message.contains("position 5"), "{message}");
            }
        }
        assert_eq!(Divergence::default().comparison(), None);
    }
}
