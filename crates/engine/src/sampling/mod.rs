//! From logits to a token, with OpenAI's meaning of every parameter. Deterministic for a seed: the token is a function
//! of logits, parameters, the tokens so far and the step, on every machine.

mod draws;
mod logprobs;
mod sampler;
mod softmax;
#[cfg(test)]
mod tests;

use rootstock_model::text::TokenId;

pub(crate) use draws::Draws;
pub(crate) use logprobs::score;
pub(crate) use sampler::{Sampler, Scratch};

/// How tokens are chosen. Applied in this order, which is vLLM's: logit bias, repetition, frequency and presence
/// penalty, temperature, min_p, top_k, top_p. Ties everywhere go to the smaller token id.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Smallest set of most likely tokens whose probability reaches this.
    pub top_p: f32,
    /// Only this many most likely tokens; `None` for all.
    pub top_k: Option<usize>,
    /// Only tokens at least this likely relative to the most likely one.
    pub min_p: f32,
    /// Subtracted once from the logit of every token generated so far.
    pub presence_penalty: f32,
    /// Subtracted per occurrence among the generated tokens.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is none.
    pub repetition_penalty: f32,
    /// Added to logits. Ids outside the vocabulary have no effect.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Start of the random sequence.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}
