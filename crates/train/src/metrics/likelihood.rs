//! Log-likelihood of a data set's learned tokens, and the perplexity that follows from it.

/// Log-probabilities summed over tokens, natural log.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Likelihood {
    /// Sum; never above 0.
    pub logprob: f64,
    /// Tokens in it.
    pub tokens: u64,
}

impl Likelihood {
    /// Adds tokens' log-probabilities, natural log.
    pub fn add(&mut self, logprobs: impl IntoIterator<Item = f32>) {
        for logprob in logprobs {
            self.logprob += f64::from(logprob);
            self.tokens += 1;
        }
    }

    /// Adds what another has summed.
    pub fn merge(&mut self, other: Self) {
        self.logprob += other.logprob;
        self.tokens += other.tokens;
    }

    /// `exp` of the mean negative log-probability of a token: among how many equally likely tokens the model might as
    /// well have chosen. `None` without tokens.
    pub fn perplexity(&self) -> Option<f64> {
        (self.tokens > 0).then(|| (-self.logprob / self.tokens as f64).exp())
    }
}
