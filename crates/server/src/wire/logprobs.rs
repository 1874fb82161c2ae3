//! Log-probabilities in the two shapes OpenAI has for them: parallel lists for completions, one entry per token for chat.

use rootstock_engine::TokenLogprobs;
use rootstock_model::text::{TokenId, Tokenizer};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// Stands for minus infinity, which JSON cannot say.
const LOWEST: f32 = -9999.0;

/// How tokens are spelled in logprobs.
#[derive(Clone, Copy)]
pub(crate) struct Spelling<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// `token_id:N` instead of text.
    pub(crate) as_ids: bool,
}

impl Spelling<'_> {
    /// The token's text, or `bytes:\xNN...` where its bytes are not UTF-8 by themselves: distinct tokens rarely collide.
    fn spell(&self, id: TokenId) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes
                .iter()
                .fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
        }
    }
}

/// OpenAI's legacy shape: one entry per token in each list.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopLogprobs>>,
    text_offset: Vec<usize>,
}

/// Logprobs by token text, best first. Of tokens with the same text the likeliest is kept, so the largest value is the best.
#[derive(Debug)]
struct TopLogprobs(Vec<(String, f32)>);

impl TopLogprobs {
    fn new(entry: &TokenLogprobs, spelling: Spelling<'_>) -> Self {
        let mut entries: Vec<(String, f32)> = Vec::with_capacity(entry.top.len() + 1);
        for (id, logprob) in entry.top.iter().copied().chain([(entry.id, entry.logprob)]) {
            let text = spelling.spell(id);
            match entries.iter_mut().find(|(known, _)| *known == text) {
                Some((_, known)) => *known = known.max(logprob.max(LOWEST)),
                None => entries.push((text, logprob.max(LOWEST))),
            }
        }
        Self(entries)
    }
}

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, logprob) in &self.0 {
            map.serialize_entry(text, logprob)?;
        }
        map.end()
    }
}

/// Where the next token begins in a choice's text, in characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextOffset {
    skip_special: bool,
    characters: usize,
}

impl TextOffset {
    pub(crate) fn new(skip_special: bool) -> Self {
        Self {
            skip_special,
            characters: 0,
        }
    }

    /// The offset of `id`, after which the next token begins. A token that continues a character lies on that character.
    fn advance(&mut self, id: TokenId, tokenizer: &Tokenizer) -> usize {
        if self.skip_special && tokenizer.is_special(id) {
            return self.characters;
        }
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let continues = |byte: &u8| byte & 0xC0 == 0x80;
        let offset = self.characters - usize::from(bytes.first().is_some_and(continues) && self.characters > 0);
        self.characters += bytes.iter().filter(|byte| !continues(byte)).count();
        offset
    }
}

impl CompletionLogprobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Adds the prompt of an echo; its first token has no log-probability. The prompt's text shows special tokens.
    pub(crate) fn push_prompt(
        &mut self,
        ids: &[TokenId],
        entries: &[Option<TokenLogprobs>],
        offset: &mut TextOffset,
        spelling: Spelling<'_>,
    ) {
        let skip_special = std::mem::replace(&mut offset.skip_special, false);
        for (position, id) in ids.iter().enumerate() {
            let entry = entries.get(position).and_then(Option::as_ref);
            self.push_entry(*id, entry, offset, spelling);
        }
        offset.skip_special = skip_special;
    }

    /// Adds a generated token.
    pub(crate) fn push(&mut self, entry: &TokenLogprobs, offset: &mut TextOffset, spelling: Spelling<'_>) {
        self.push_entry(entry.id, Some(entry), offset, spelling);
    }

    fn push_entry(
        &mut self,
        id: TokenId,
        entry: Option<&TokenLogprobs>,
        offset: &mut TextOffset,
        spelling: Spelling<'_>,
    ) {
        self.tokens.push(spelling.spell(id));
        self.token_logprobs.push(entry.map(|entry| entry.logprob.max(LOWEST)));
        self.top_logprobs
            .push(entry.map(|entry| TopLogprobs::new(entry, spelling)));
        self.text_offset.push(offset.advance(id, spelling.tokenizer));
    }
}

/// Chat's shape.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: ChatTokenText,
    top_logprobs: Vec<ChatTokenText>,
}

#[derive(Debug, Serialize)]
struct ChatTokenText {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(crate) fn push(&mut self, entry: &TokenLogprobs, spelling: Spelling<'_>) {
        let text = |id: TokenId, logprob: f32| ChatTokenText {
            token: spelling.spell(id),
            logprob: logprob.max(LOWEST),
            bytes: spelling.tokenizer.token_bytes(id).unwrap_or_default().to_vec(),
        };
        self.content.push(ChatToken {
            token: text(entry.id, entry.logprob),
            top_logprobs: entry.top.iter().map(|(id, logprob)| text(*id, *logprob)).collect(),
        });
    }
}
