//! What is asked of a model about an example: how likely it finds what is to be learned, how likely each label, and what it writes
//! itself.

use anyhow::{Result, bail};
use rootstock_model::text::TokenId;
use rootstock_train::dataset::{Encoder, EncoderSettings, Example, Message, Sample};
use serde_json::json;

use super::candidates::Candidate;
use super::examples::Examples;
use crate::base::Base;
use crate::settings::Evidence;

/// One request to the engine.
pub enum Question {
    /// How likely the learned tokens are.
    Likelihood {
        /// With at least one learned token.
        sample: Sample,
        /// It was cut to the longest length.
        truncated: bool,
    },
    /// How likely a label is.
    Label {
        /// Which.
        index: usize,
        /// Its tokens are the learned ones.
        sample: Sample,
    },
    /// What is generated.
    Text {
        /// What is continued.
        prompt: Vec<TokenId>,
        /// Whether it is a completion, not a reply.
        continues: bool,
    },
}

/// How many questions an example brings.
pub fn count(examples: &Examples) -> usize {
    let labels = examples.labels.as_ref().map_or(0, |labels| labels.texts.len());
    usize::from(examples.need(Evidence::Likelihood)) + labels + usize::from(examples.need(Evidence::Text))
}

/// The questions about one example, `count` of them.
///
/// # Errors
/// The example cannot be put into tokens.
pub fn of(example: &Example, examples: &Examples, base: &Base, candidate: &Candidate) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    if examples.need(Evidence::Likelihood) {
        let encoded = candidate.encoder.encode(example)?;
        if encoded.sample.learned_tokens() == 0 {
            bail!("nothing in it is learned, so that it has no perplexity");
        }
        questions.push(Question::Likelihood {
            sample: encoded.sample,
            truncated: encoded.truncated,
        });
    }
    if let (Some(labels), Example::Completion { prompt, .. }) = (&examples.labels, example) {
        questions.extend(label_questions(prompt, &labels.texts, &candidate.encoder)?);
    }
    if examples.need(Evidence::Text) {
        questions.push(text_question(example, base, candidate)?);
    }
    Ok(questions)
}

/// Each label after the prompt, without an end token: a model need not know that a label is the end. The prompt is cut alike for all
/// of them, so that they are compared after the same text.
fn label_questions(prompt: &str, labels: &[String], encoder: &Encoder) -> Result<Vec<Question>> {
    let whole = |max_length: usize| EncoderSettings {
        max_length,
        end: None,
        ..encoder.settings().clone()
    };
    let encode = |label: &String, max_length: usize| {
        let encoder = Encoder::new(encoder.tokenizer().clone(), None, whole(max_length))?;
        let example = Example::Completion {
            prompt: prompt.to_owned(),
            completion: label.clone(),
        };
        encoder.encode(&example)
    };
    let most = encoder.settings().max_length;
    let lengths = labels.iter().map(|label| Ok(encode(label, usize::MAX)?.whole));
    let lengths: Vec<usize> = lengths.collect::<Result<_>>()?;
    let surplus = lengths.iter().max().map_or(0, |longest| longest.saturating_sub(most));
    let question = |(index, (label, length)): (usize, (&String, usize))| {
        let sample = encode(label, length.saturating_sub(surplus).max(2))?.sample;
        if sample.learned_tokens() == 0 {
            bail!("the label {label:?} has no tokens of its own");
        }
        Ok(Question::Label { index, sample })
    };
    labels.iter().zip(lengths).enumerate().map(question).collect()
}

fn text_question(example: &Example, base: &Base, candidate: &Candidate) -> Result<Question> {
    Ok(match example {
        Example::Completion { prompt, .. } => Question::Text {
            prompt: base.text_prompt(prompt)?,
            continues: true,
        },
        Example::Conversation(turns) => {
            let (_, before) = last_turn(turns)?;
            let message = |turn: &Message| json!({"role": turn.role, "content": turn.content});
            let messages: Vec<_> = before.iter().map(message).collect();
            Question::Text {
                prompt: base.chat_prompt(&messages, &candidate.held.defaults)?,
                continues: false,
            }
        }
        Example::Text(_) => bail!("plain text has no completion"),
    })
}

/// What a generation is compared with; `None` for plain text.
pub fn reference(example: &Example) -> Option<&str> {
    match example {
        Example::Completion { completion, .. } => Some(completion),
        Example::Conversation(turns) => last_turn(turns).ok().map(|(last, _)| last.content.as_str()),
        Example::Text(_) => None,
    }
}

/// The assistant's last turn and what was said before.
fn last_turn(turns: &[Message]) -> Result<(&Message, &[Message])> {
    match turns.split_last() {
        Some((last, before)) if last.role == "assistant" && !before.is_empty() => Ok((last, before)),
        _ => bail!("expected a conversation that ends with a turn of the assistant after another's"),
    }
}
