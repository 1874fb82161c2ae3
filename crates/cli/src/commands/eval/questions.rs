//! What is asked of a model about an example: how likely it finds what is to be learned, how likely each label, and
//! what it writes itself.

use anyhow::{Result, bail};
use rootstock_model::text::TokenId;
use rootstock_train::TrainError;
use rootstock_train::dataset::{Encoded, Encoder, EncoderSettings, Example, Message, Sample, Truncation};
use serde_json::json;

use super::candidates::{Candidate, Team};
use super::examples::Examples;
use crate::settings::Evidence;

/// One request to the engine.
pub enum Question {
    /// How likely the learned tokens are, of which there is one at least.
    Likelihood(Sample),
    /// How likely the label of that index is, whose tokens are the learned ones.
    Label(usize, Sample),
    /// What is generated.
    Text {
        /// What is continued.
        prompt: Vec<TokenId>,
        /// Whether it is a completion, not a reply.
        continues: bool,
    },
}

/// All that one candidate is asked about one example.
#[derive(Default)]
pub struct Questions {
    /// As many as [`Exam::questions`] says.
    pub list: Vec<Question>,
    /// The example was cut to the longest length.
    pub truncated: bool,
}

/// What is asked, and who.
#[derive(Clone, Copy)]
pub struct Exam<'a> {
    /// About these.
    pub examples: &'a Examples,
    /// Each of them.
    pub team: &'a Team,
    /// Most tokens of a generation.
    pub max_tokens: usize,
}

impl Exam<'_> {
    /// How many questions an example brings.
    pub fn questions(&self) -> usize {
        let examples = self.examples;
        let labels = examples.labels.as_ref().map_or(0, |labels| labels.texts.len());
        usize::from(examples.need(Evidence::Likelihood)) + labels + usize::from(examples.need(Evidence::Text))
    }

    /// The questions about one example to one candidate.
    ///
    /// # Errors
    /// The example cannot be put into tokens.
    pub fn about(&self, example: &Example, candidate: &Candidate) -> Result<Questions> {
        let mut questions = Questions::default();
        if self.examples.need(Evidence::Likelihood) {
            let encoded = candidate.encoder.encode(example)?;
            if encoded.sample.learned_tokens() == 0 {
                bail!("it has no token that is learned, so that it has no perplexity");
            }
            questions.truncated = encoded.truncated;
            questions.list.push(Question::Likelihood(encoded.sample));
        }
        if let (Some(labels), Example::Completion { prompt, .. }) = (&self.examples.labels, example) {
            questions.ask_labels(prompt, &labels.texts, &candidate.encoder)?;
        }
        if self.examples.need(Evidence::Text) {
            self.ask_generation(example, candidate, &mut questions)?;
        }
        Ok(questions)
    }

    /// What is generated shares the longest length with its prompt.
    fn ask_generation(&self, example: &Example, candidate: &Candidate, questions: &mut Questions) -> Result<()> {
        let question = match example {
            Example::Completion { prompt, .. } => {
                let most = candidate.encoder.settings().max_length;
                let room = (most - self.max_tokens.min(most / 2)).max(2);
                let encoded = without_end(prompt, "", &candidate.encoder, room)?;
                if encoded.sample.is_empty() {
                    bail!("the prompt is empty, so that there is nothing to continue");
                }
                questions.truncated |= encoded.truncated;
                Question::Text {
                    prompt: encoded.sample.ids,
                    continues: true,
                }
            }
            Example::Conversation(turns) => {
                let (_, before) = last_turn(turns)?;
                let message = |turn: &Message| json!({"role": turn.role, "content": turn.content});
                let messages: Vec<_> = before.iter().map(message).collect();
                Question::Text {
                    prompt: self.team.base.chat_prompt(&messages, &candidate.held.defaults)?,
                    continues: false,
                }
            }
            Example::Text(_) => bail!("plain text has no completion"),
        };
        questions.list.push(question);
        Ok(())
    }
}

impl Questions {
    /// Each label after the prompt, without an end token: a model need not know that a label is the end. The prompt is
    /// cut alike for all of them, so that they are compared after the same text.
    fn ask_labels(&mut self, prompt: &str, labels: &[String], encoder: &Encoder) -> Result<()> {
        let encode = |max_length| move |label: &String| without_end(prompt, label, encoder, max_length);
        let whole: Vec<Encoded> = labels.iter().map(encode(usize::MAX)).collect::<Result<_, _>>()?;
        let longest = whole.iter().map(|encoded| encoded.whole).max().unwrap_or(0);
        let surplus = longest.saturating_sub(encoder.settings().max_length);
        self.truncated |= surplus > 0;
        for (index, (label, whole)) in labels.iter().zip(whole).enumerate() {
            let sample = match surplus {
                0 => whole.sample,
                _ => encode(whole.whole.saturating_sub(surplus).max(2))(label)?.sample,
            };
            if sample.learned_tokens() == 0 {
                bail!("the label {label:?} has no token that anything is before; give the example a prompt");
            }
            self.list.push(Question::Label(index, sample));
        }
        Ok(())
    }
}

/// A prompt and what follows it in at most so many tokens; where there are more, the prompt's first are cut.
fn without_end(prompt: &str, completion: &str, encoder: &Encoder, max_length: usize) -> Result<Encoded, TrainError> {
    let settings = EncoderSettings {
        max_length,
        end: None,
        truncation: Truncation::PromptStart,
    };
    let example = Example::Completion {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    };
    Encoder::new(encoder.tokenizer().clone(), None, settings)?.encode(&example)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rootstock_model::text::{BpeVocabulary, Cut, TokenKind, Tokenizer};

    use super::*;

    const END: TokenId = 27;

    /// One token a letter, so that lengths can be read.
    fn encoder(max_length: usize) -> Encoder {
        let tokens: Vec<String> = ('a'..='z').chain(['Ġ', '.']).map(String::from).collect();
        let vocabulary = BpeVocabulary {
            kinds: vec![TokenKind::Normal; tokens.len()],
            tokens,
            merges: Vec::new(),
            cut: Cut::DigitsThenGpt2,
            prefix: None,
            end_tokens: vec![END],
        };
        let settings = EncoderSettings {
            max_length,
            end: Some(END),
            truncation: Truncation::PromptStart,
        };
        Encoder::new(Arc::new(Tokenizer::from_bpe(&vocabulary).unwrap()), None, settings).unwrap()
    }

    /// What is given and what is scored of each label, as text.
    fn asked(prompt: &str, labels: &[&str], max_length: usize) -> Result<(Vec<(String, String)>, bool)> {
        let encoder = encoder(max_length);
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        let mut questions = Questions::default();
        questions.ask_labels(prompt, &labels, &encoder)?;
        let text = |question: &Question| match question {
            Question::Label(_, sample) => {
                let from = sample.ids.len() - sample.learned_tokens();
                let (given, scored) = sample.ids.split_at(from);
                let tokenizer = encoder.tokenizer();
                (tokenizer.decode(given, false), tokenizer.decode(scored, false))
            }
            _ => panic!("not a label"),
        };
        Ok((questions.list.iter().map(text).collect(), questions.truncated))
    }

    fn pairs(given: &str, scored: &[&str]) -> Vec<(String, String)> {
        scored
            .iter()
            .map(|scored| (given.to_owned(), (*scored).to_owned()))
            .collect()
    }

    #[test]
    fn labels_are_scored_without_the_token_that_ends_a_completion() {
        let (asked, truncated) = asked("it is", &[" a", " bc"], 20).unwrap();
        assert_eq!((asked, truncated), (pairs("it is", &[" a", " bc"]), false));
    }

    #[test]
    fn labels_of_other_lengths_are_compared_after_the_same_text() {
        let (asked, truncated) = asked("it really is", &[" a", " bcde"], 10).unwrap();
        assert_eq!((asked, truncated), (pairs("ly is", &[" a", " bcde"]), true));
    }

    #[test]
    fn a_label_that_nothing_is_before_cannot_be_scored() {
        let error = asked("", &["a", "b"], 20).unwrap_err().to_string();
        assert!(error.contains("give the example a prompt"), "{error}");
    }

    #[test]
    fn a_generation_is_compared_with_the_assistants_last_turn() {
        let turn = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        let talk = |turns: &[Message]| Example::Conversation(turns.to_vec());
        let (asked, answered) = (turn("user", "a"), turn("assistant", "b"));
        assert_eq!(reference(&talk(&[asked.clone(), answered.clone()])), Some("b"));
        assert_eq!(reference(&talk(&[answered.clone(), asked])), None);
        assert!(last_turn(&[answered]).is_err());
    }
}
