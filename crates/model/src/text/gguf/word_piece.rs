//! WordPiece as GGUF embeds it: where vocab.txt marks continuations with `##`, GGUF marks beginnings as SentencePiece does.

use tokenizers::Tokenizer as Pipeline;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::fields::Fields;
use super::{Around, Built};
use crate::ModelError;
use crate::text::spelling::Decoder;
use crate::text::vocabulary::{TokenKind, add_whole, cannot_build, ids};

/// What GGUF puts before a token that begins a word.
const BEGINNING: char = '\u{2581}';
/// What BERT puts before a token that continues a word.
const CONTINUATION: &str = "##";
/// BERT's spelling of what it does not know.
const UNKNOWN: &str = "[UNK]";
/// Longer words are unknown, in characters.
const LONGEST_WORD: usize = 100;

pub(super) fn build(fields: &Fields<'_>) -> Result<Built, ModelError> {
    let tokens: Vec<String> = fields.tokens.iter().zip(&fields.kinds).map(respelled).collect();
    let unknown = match fields.id("tokenizer.ggml.unknown_token_id")? {
        Some(id) => tokens[id as usize].clone(),
        None => UNKNOWN.to_owned(),
    };
    let model = WordPiece::builder()
        .vocab(ids(&tokens)?)
        .unk_token(unknown)
        .continuing_subword_prefix(CONTINUATION.to_owned())
        .max_input_chars_per_word(LONGEST_WORD)
        .build()
        .map_err(cannot_build)?;
    let lowercase = fields.flag("tokenizer.ggml.normalizer.lowercase", true)?;
    let strip_accents = fields.flag("tokenizer.ggml.normalizer.strip_accents", lowercase)?;
    let normalizer = BertNormalizer::new(true, true, Some(strip_accents), lowercase);
    let mut pipeline = Pipeline::new(model);
    pipeline.with_normalizer(Some(normalizer)).map_err(cannot_build)?;
    pipeline.with_pre_tokenizer(Some(BertPreTokenizer));
    add_whole(&mut pipeline, &tokens, &fields.kinds, |_| false)?;
    Ok(Built {
        pipeline,
        decoder: Decoder::WordPiece {
            prefix: CONTINUATION.to_owned(),
            cleanup: true,
        },
        kinds: fields.kinds.clone(),
        tokens,
        around: Around {
            begin: true,
            separated: true,
            ..Around::default()
        },
    })
}

/// The token as vocab.txt has it.
fn respelled((token, kind): (&String, &TokenKind)) -> String {
    match token.strip_prefix(BEGINNING) {
        Some(word) if !word.is_empty() => word.to_owned(),
        _ if *kind != TokenKind::Normal || (token.starts_with('[') && token.ends_with(']')) => token.clone(),
        _ => format!("{CONTINUATION}{token}"),
    }
}
