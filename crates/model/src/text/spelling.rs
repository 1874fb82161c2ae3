//! What each token reads as: its bytes within a text, and where a text begins with less (SentencePiece puts a space
//! before the first word that is not part of the text). Equal to the decoders of Hugging Face's tokenizers, except
//! that bytes which are not UTF-8 become one U+FFFD for each maximal part, so that text can be given out as it comes.

use serde::{Deserialize, Serialize};

use super::TokenId;
use super::byte_level::ByteAlphabet;

/// Readings of a vocabulary.
pub(super) struct Spelling {
    tokens: Vec<Option<Token>>,
    lead: Lead,
}

/// One token; `None` in the table for an id that nothing has.
pub(super) struct Token {
    /// Within a text.
    pub(super) bytes: Box<[u8]>,
    /// Whether it is a control token.
    pub(super) special: bool,
}

/// How a text begins.
pub(super) enum Lead {
    /// As its first token reads anywhere else.
    Kept,
    /// Without up to so many spaces.
    SpacesDropped(usize),
    /// With the first token's own reading, by id.
    Own(Vec<Box<[u8]>>),
}

impl Spelling {
    pub(super) fn new(tokens: Vec<Option<Token>>, lead: Lead) -> Self {
        Self { tokens, lead }
    }

    /// The readings that `decoder` gives to `tokens`, which are spellings with whether they are control tokens.
    pub(super) fn by(decoder: &Decoder, tokens: Vec<Option<(String, bool)>>) -> Result<Self, String> {
        let steps = decoder.steps()?;
        let alphabet = ByteAlphabet::new();
        let read = |spelling: &str, first: bool| steps.read(&alphabet, spelling, first).into_boxed_slice();
        let lead = if steps.positional {
            let first =
                |token: &Option<(String, bool)>| token.as_ref().map_or_else(Box::default, |(t, _)| read(t, true));
            Lead::Own(tokens.iter().map(first).collect())
        } else if steps.dropped > 0 {
            Lead::SpacesDropped(steps.dropped)
        } else {
            Lead::Kept
        };
        let token = |(spelling, special): (String, bool)| Token {
            bytes: read(&spelling, false),
            special,
        };
        let tokens = tokens.into_iter().map(|entry| entry.map(token)).collect();
        Ok(Self { tokens, lead })
    }

    /// The token `id`.
    pub(super) fn token(&self, id: TokenId) -> Option<&Token> {
        self.tokens.get(id as usize)?.as_ref()
    }

    /// Bytes of `id` where it is the first token of a text.
    pub(super) fn first_bytes(&self, id: TokenId) -> Option<&[u8]> {
        let bytes = &self.token(id)?.bytes;
        Some(match &self.lead {
            Lead::Kept => bytes,
            Lead::SpacesDropped(most) => {
                let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
                &bytes[spaces.min(*most)..]
            }
            Lead::Own(first) => &first[id as usize],
        })
    }

    /// One more than the highest id.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// The `decoder` of a tokenizer.json.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Metaspace {
        replacement: char,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prepend_scheme: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        add_prefix_space: Option<bool>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        decoders: Vec<Decoder>,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    /// No decoder at all: tokens with spaces between them.
    #[serde(skip)]
    Spaced,
}

/// What a [`Decoder::Replace`] looks for.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) enum Pattern {
    String(String),
    Regex(String),
}

/// A decoder flattened: what happens to each token, and to the beginning of the text.
#[derive(Default)]
struct Steps<'a> {
    each: Vec<&'a Decoder>,
    /// Some step treats the first token differently.
    positional: bool,
    /// Spaces that the text loses at its beginning.
    dropped: usize,
    fused: bool,
}

impl Decoder {
    /// The decoder of SentencePiece vocabularies with byte tokens.
    pub(super) fn sentence_piece(space_prefix: bool) -> Self {
        let mut decoders = vec![
            Self::Replace {
                pattern: Pattern::String("\u{2581}".to_owned()),
                content: " ".to_owned(),
            },
            Self::ByteFallback {},
            Self::Fuse {},
        ];
        decoders.extend(space_prefix.then_some(Self::Strip {
            content: ' ',
            start: 1,
            stop: 0,
        }));
        Self::Sequence { decoders }
    }

    /// The decoder of SentencePiece vocabularies without byte tokens.
    pub(super) fn metaspace(replacement: char, space_prefix: bool) -> Self {
        Self::Metaspace {
            replacement,
            prepend_scheme: None,
            add_prefix_space: Some(space_prefix),
        }
    }

    fn steps(&self) -> Result<Steps<'_>, String> {
        let mut steps = Steps::default();
        steps.add(self)?;
        if steps.positional && steps.dropped > 0 {
            return Err("decoder: Strip after Metaspace or WordPiece is not supported".to_owned());
        }
        Ok(steps)
    }

    /// Metaspace before every first word (older files say so with a flag).
    fn prepends(scheme: Option<&str>, flag: Option<bool>) -> bool {
        scheme.map_or(flag.unwrap_or(true), |scheme| scheme != "never")
    }
}

impl<'a> Steps<'a> {
    fn add(&mut self, decoder: &'a Decoder) -> Result<(), String> {
        match decoder {
            Decoder::Sequence { decoders } => return decoders.iter().try_for_each(|step| self.add(step)),
            Decoder::Fuse {} => self.fused = true,
            Decoder::Strip {
                content: ' ',
                start,
                stop: 0,
            } if self.fused => {
                self.dropped += start;
                return Ok(());
            }
            _ if self.fused => return Err(format!("decoder: {decoder:?} after Fuse is not supported")),
            Decoder::Replace {
                pattern: Pattern::Regex(regex),
                ..
            } => return Err(format!("decoder: Replace of the expression {regex:?} is not supported")),
            Decoder::Metaspace {
                prepend_scheme,
                add_prefix_space,
                ..
            } => self.positional |= Decoder::prepends(prepend_scheme.as_deref(), *add_prefix_space),
            Decoder::WordPiece { .. } | Decoder::Spaced => self.positional = true,
            _ => {}
        }
        self.each.push(decoder);
        Ok(())
    }

    fn read(&self, alphabet: &ByteAlphabet, spelling: &str, first: bool) -> Vec<u8> {
        let mut text = spelling.to_owned();
        for step in &self.each {
            match step {
                Decoder::ByteLevel {} => {
                    return alphabet.bytes_of(&text).unwrap_or_else(|| text.into_bytes());
                }
                Decoder::ByteFallback {} => {
                    if let Some(byte) = byte_token(&text) {
                        return vec![byte];
                    }
                }
                Decoder::Metaspace {
                    replacement,
                    prepend_scheme,
                    add_prefix_space,
                } => {
                    let dropped = first && Decoder::prepends(prepend_scheme.as_deref(), *add_prefix_space);
                    text = text.replace(*replacement, if dropped { "" } else { " " });
                }
                Decoder::Replace {
                    pattern: Pattern::String(pattern),
                    content,
                } => text = text.replace(pattern, content),
                Decoder::Strip { content, start, stop } => text = stripped(&text, *content, *start, *stop),
                Decoder::WordPiece { prefix, cleanup } => text = word_piece(text, prefix, *cleanup, first),
                Decoder::Spaced if !first => text.insert(0, ' '),
                _ => {}
            }
        }
        text.into_bytes()
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_token(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hex)
}

/// `text` without up to `start` and `stop` letters `content` at its ends.
fn stripped(text: &str, content: char, start: usize, stop: usize) -> String {
    let mut kept = text;
    for _ in 0..start {
        kept = kept.strip_prefix(content).unwrap_or(kept);
    }
    for _ in 0..stop {
        kept = kept.strip_suffix(content).unwrap_or(kept);
    }
    kept.to_owned()
}

/// Spaces before these are taken away, or what is left of them is shortened, in this order.
const CLEANUP: [(&str, &str); 11] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

fn word_piece(token: String, prefix: &str, cleanup: bool, first: bool) -> String {
    let text = match token.strip_prefix(prefix) {
        _ if first => token,
        Some(continuation) => continuation.to_owned(),
        None => format!(" {token}"),
    };
    if cleanup {
        CLEANUP.iter().fold(text, |text, (from, to)| text.replace(from, to))
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
