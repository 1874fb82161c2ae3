//! From an example to token ids with a loss mask. The text is put together and tokenized once, as a whole, with the place of
//! every token in it: tokens of parts do not always add up to those of the whole.
//!
//! - **Completion**: a token is learned if any of its text is the completion's, so one that reaches across from the prompt is
//!   learned too (`"is "` + `"spam"` make the token `" spam"`). [`Encoded::continues`] then says that the prompt alone, as a
//!   server is given it, has other tokens.
//! - **Conversation**: what the assistant says is learned, with the token that ends its turn ([`conversation`]).
//! - **Text**: everything is learned.
//!
//! An end token after completions and texts is learned, whatever token pads batches. What the tokenizer puts before a text
//! (BOS) stands once, even if the text or the chat template spells it already.

mod conversation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rootstock_model::Checkpoint;
use rootstock_model::text::{ChatTemplate, Encoding, Markers, TokenId, Tokenizer};

use self::conversation::Turns;
use super::{Example, Sample};
use crate::TrainError;

/// How examples become tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Most tokens of a sample, at least 2.
    pub max_length: usize,
    /// Put after completions and texts that do not end with it; `None` puts nothing there. Conversations end as the template
    /// ends them.
    pub end: Option<TokenId>,
    /// What is cut of a completion's sample that is longer.
    pub truncation: Truncation,
}

/// What is cut of a prompt with its completion. Conversations and texts are cut at their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// The beginning of the prompt, then the end of the completion: a label at the end stays.
    #[default]
    PromptStart,
    /// The end, as TRL does.
    End,
}

/// Puts examples into tokens.
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    settings: EncoderSettings,
}

/// An example in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens and their mask.
    pub sample: Sample,
    /// Tokens before any were cut.
    pub whole: usize,
    /// Some were cut.
    pub truncated: bool,
    /// How many of them at the beginning of the prompt; the others at the end.
    pub cut_before: usize,
    /// The last token that is learned ends a text or a turn. Without one a model does not learn to stop.
    pub ends: bool,
    /// The prompt alone has the tokens that it has before the completion, so that a served model goes on as it was trained to.
    /// Mostly false where a prompt ends with a space or several line breaks. True of conversations and texts.
    pub continues: bool,
}

/// Tokens of a whole example.
struct Whole {
    ids: Vec<TokenId>,
    learned: Vec<bool>,
    /// Tokens of the tokenizer's own at the beginning.
    prefix: usize,
    continues: bool,
}

/// The token that a model's texts end with: its end-of-sequence token, else the first that ends a generation of it.
pub fn end_of_text(tokenizer: &Tokenizer, markers: &Markers) -> Option<TokenId> {
    let eos = tokenizer.token_id(&markers.eos);
    eos.or_else(|| tokenizer.end_tokens().first().copied())
}

impl Encoder {
    /// An encoder. Without a template it refuses conversations.
    ///
    /// # Errors
    /// A length below 2, or an end token that the vocabulary has not.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        settings: EncoderSettings,
    ) -> Result<Self, TrainError> {
        let EncoderSettings { max_length, end, .. } = settings;
        if max_length < 2 {
            let reason = format!("expected a maximum length of at least 2 tokens, got {max_length}");
            return Err(TrainError::Encode(reason));
        }
        if let Some(end) = end.filter(|&end| end as usize >= tokenizer.vocab_size()) {
            let size = tokenizer.vocab_size();
            let reason = format!("the end token is {end}, but the vocabulary has {size} tokens");
            return Err(TrainError::Encode(reason));
        }
        Ok(Self {
            tokenizer,
            template,
            settings,
        })
    }

    /// The encoder for a model: with its template, and ending with its end-of-sequence token (else the first token that ends a
    /// generation of it).
    ///
    /// # Errors
    /// As [`Self::new`], and for a tokenizer or template that cannot be read.
    pub fn for_model(checkpoint: &Checkpoint, max_length: usize, truncation: Truncation) -> Result<Self, TrainError> {
        let tokenizer = checkpoint.tokenizer()?;
        let settings = EncoderSettings {
            max_length,
            end: end_of_text(&tokenizer, &checkpoint.markers()?),
            truncation,
        };
        Self::new(Arc::new(tokenizer), checkpoint.chat_template()?, settings)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The settings.
    pub fn settings(&self) -> &EncoderSettings {
        &self.settings
    }

    /// An example in at most `max_length` tokens.
    ///
    /// # Errors
    /// A conversation that the chat template refuses or whose turns cannot be told apart in its text, or text that the
    /// tokenizer has no tokens for.
    pub fn encode(&self, example: &Example) -> Result<Encoded, TrainError> {
        let mut whole = self.whole(example)?;
        let length = whole.ids.len();
        let cut_before = whole.cut(self.settings.max_length, self.cuts_prompt(example));
        Ok(Encoded {
            cut_before,
            ..self.encoded(whole, length)
        })
    }

    /// An example in as many tokens as it has: for texts that are packed, of which nothing is cut.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_whole(&self, example: &Example) -> Result<Encoded, TrainError> {
        let whole = self.whole(example)?;
        let length = whole.ids.len();
        Ok(self.encoded(whole, length))
    }

    fn cuts_prompt(&self, example: &Example) -> bool {
        matches!(example, Example::Completion { .. }) && self.settings.truncation == Truncation::PromptStart
    }

    fn encoded(&self, whole: Whole, length: usize) -> Encoded {
        let sample = Sample::new(whole.ids, whole.learned);
        let ends = |id: &TokenId| self.ends(*id);
        Encoded {
            whole: length,
            truncated: sample.len() < length,
            cut_before: 0,
            ends: sample.learned_ids().last().is_some_and(ends),
            continues: whole.continues,
            sample,
        }
    }

    /// Whether a token ends a text or a turn.
    fn ends(&self, id: TokenId) -> bool {
        self.settings.end == Some(id) || self.tokenizer.end_tokens().contains(&id)
    }

    fn whole(&self, example: &Example) -> Result<Whole, TrainError> {
        match example {
            Example::Completion { prompt, completion } => self.completion(prompt, completion),
            Example::Text(text) => {
                let encoding = self.with_prefix_once(text)?;
                let learned = vec![true; encoding.ids.len()];
                Ok(self.ended(encoding, learned))
            }
            Example::Conversation(messages) => {
                let Some(template) = &self.template else {
                    return Err(TrainError::Encode(
                        "the model has no chat template; expected {prompt, completion} or {text}, got a conversation"
                            .to_owned(),
                    ));
                };
                let turns = Turns::of(template, messages)?;
                // As a server does: the template spells out every special token, so the tokenizer adds none.
                let encoding = self.tokenizer.encode_with_offsets(&turns.text, false)?;
                let learned = turns.learned(&encoding, |id| self.ends(id));
                Ok(Whole {
                    ids: encoding.ids,
                    learned,
                    prefix: 0,
                    continues: true,
                })
            }
        }
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Whole, TrainError> {
        let encoding = self.with_prefix_once(&format!("{prompt}{completion}"))?;
        let own = encoding.ids.len() - encoding.suffix;
        let after_prompt =
            |(index, offsets): (usize, &std::ops::Range<usize>)| index >= own || offsets.end > prompt.len();
        let learned: Vec<bool> = encoding.offsets.iter().enumerate().map(after_prompt).collect();
        let given = learned.iter().take_while(|&&learned| !learned).count();
        let alone = self.with_prefix_once(prompt)?;
        let alone = &alone.ids[..alone.ids.len() - alone.suffix];
        let continues = encoding.ids[..given] == *alone;
        Ok(Whole {
            continues,
            ..self.ended(encoding, learned)
        })
    }

    /// The tokens of a text with what the tokenizer puts around it, unless the text itself begins so.
    fn with_prefix_once(&self, text: &str) -> Result<Encoding, TrainError> {
        let mut encoding = self.tokenizer.encode_with_offsets(text, true)?;
        let (prefix, own) = encoding.ids.split_at(encoding.prefix);
        if !prefix.is_empty() && own.starts_with(prefix) {
            // The text's own are kept apart like the tokenizer's.
            encoding.ids.drain(..encoding.prefix);
            encoding.offsets.drain(..encoding.prefix);
        }
        Ok(encoding)
    }

    fn ended(&self, encoding: Encoding, mut learned: Vec<bool>) -> Whole {
        let mut ids = encoding.ids;
        if let Some(end) = self.settings.end.filter(|end| ids.last() != Some(end)) {
            ids.push(end);
            learned.push(true);
        }
        Whole {
            ids,
            learned,
            prefix: encoding.prefix,
            continues: true,
        }
    }
}

impl Whole {
    /// Cuts to a length and gives the number of tokens cut of the prompt's beginning.
    fn cut(&mut self, max_length: usize, from_prompt: bool) -> usize {
        let mut excess = 0;
        if from_prompt {
            let given = self.learned.iter().take_while(|&&learned| !learned).count();
            // One token stays before the completion, whose first is otherwise not learned.
            let most = given.saturating_sub(self.prefix.max(1));
            excess = self.ids.len().saturating_sub(max_length).min(most);
            let cut = self.prefix..self.prefix + excess;
            self.ids.drain(cut.clone());
            self.learned.drain(cut);
        }
        self.ids.truncate(max_length);
        self.learned.truncate(max_length);
        excess
    }
}
