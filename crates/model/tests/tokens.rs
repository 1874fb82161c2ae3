//! Ids and decoded text of 1 MiB of prose in many languages, code, emoji and awkward characters against what
//! transformers makes of them (fixtures/tokens/make_tokens.py), for tokenizers of every kind.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use proptest::prelude::*;
use rootstock_formats::gguf::Gguf;
use rootstock_model::text::{TextStream, Tokenizer, gguf, hf};
use serde_json::Value;

/// Bytes of a piece of text at most.
const PIECE: usize = 4096;
/// Rows of an embedding that covers every vocabulary here.
const ROWS: usize = 50_000;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tokens")
        .join(name)
}

fn unpacked(path: &Path) -> Vec<u8> {
    let packed = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn text() -> String {
    String::from_utf8(unpacked(&fixture("text.txt.gz"))).unwrap()
}

/// The text in pieces of at most [`PIECE`] bytes that do not cut a character.
fn pieces(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

fn embedded(name: &str) -> Tokenizer {
    let bytes = unpacked(&fixture(&format!("{name}.gguf.gz")));
    gguf::tokenizer(&Gguf::parse(&bytes).unwrap(), ROWS).unwrap()
}

fn folder(name: &str) -> Tokenizer {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::write(target.path().join(path.file_stem().unwrap()), unpacked(&path)).unwrap();
    }
    hf::tokenizer(target.path(), ROWS).unwrap()
}

fn smollm2_path() -> PathBuf {
    std::env::var_os("ROOTSTOCK_TEST_MODEL").map_or_else(
        || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            workspace.join(".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    )
}

fn smollm2() -> Tokenizer {
    let path = smollm2_path();
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{error}; `make model` fetches the test model"));
    gguf::tokenizer(&Gguf::parse(&bytes).unwrap(), ROWS).unwrap()
}

/// The tokenizer of a folder that is written of a GGUF file.
fn rewritten(bytes: &[u8]) -> Tokenizer {
    let target = tempfile::tempdir().unwrap();
    for (name, bytes) in gguf::saved(&Gguf::parse(bytes).unwrap(), ROWS, 2048).unwrap().files {
        let path = target.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    hf::tokenizer(target.path(), ROWS).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// Compares every piece of the text with what fixtures/tokens/expected.json says of `name`.
fn compare(name: &str, tokenizer: &Tokenizer) {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap();
    let expected = expected[name].as_array().unwrap();
    let text = text();
    let pieces = pieces(&text);
    assert!(text.len() >= 1 << 20, "{} bytes", text.len());
    assert_eq!(pieces.len(), expected.len());
    for (index, (piece, expected)) in pieces.into_iter().zip(expected).enumerate() {
        let (ids, decoded) = expected.as_str().unwrap().split_once(' ').unwrap();
        let encoded = tokenizer.encode(piece, true).unwrap();
        let bytes: Vec<u8> = encoded.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(digest(&bytes), ids, "{name}: ids of piece {index}: {piece:?}");
        let shown = tokenizer.decode(&encoded, true);
        assert_eq!(
            digest(shown.as_bytes()),
            decoded,
            "{name}: text of piece {index}: {shown:?}"
        );
    }
}

#[test]
fn byte_level_bpe_in_gguf_is_as_in_transformers() {
    compare("smollm2.gguf", &smollm2());
}

#[test]
fn sentence_piece_bpe_in_gguf_is_as_in_transformers() {
    compare("phi-3.gguf", &embedded("phi-3"));
}

#[test]
fn word_piece_in_gguf_is_as_in_transformers() {
    compare("bge.gguf", &embedded("bge"));
}

#[test]
fn unigram_in_gguf_is_as_in_transformers() {
    compare("unigram.gguf", &embedded("unigram"));
}

#[test]
fn folders_of_every_kind_are_as_in_transformers() {
    for name in ["byte-level", "byte-fallback", "word-piece", "unigram"] {
        compare(name, &folder(name));
    }
}

#[test]
fn folders_that_are_written_of_gguf_are_as_in_transformers() {
    compare("smollm2.gguf", &rewritten(&std::fs::read(smollm2_path()).unwrap()));
    for name in ["phi-3.gguf", "bge.gguf", "unigram.gguf"] {
        compare(name, &rewritten(&unpacked(&fixture(&format!("{name}.gz")))));
    }
}

#[test]
fn an_end_of_a_turn_survives_being_written() {
    let bytes = std::fs::read(smollm2_path()).unwrap();
    assert_eq!(rewritten(&bytes).end_tokens(), smollm2().end_tokens());
}

#[test]
fn ids_with_offsets_are_the_same_ids_in_order_of_the_text() {
    let text = text();
    for tokenizer in [
        smollm2(),
        embedded("phi-3"),
        embedded("bge"),
        embedded("unigram"),
        folder("byte-level"),
        folder("byte-fallback"),
        folder("word-piece"),
        folder("unigram"),
    ] {
        for piece in pieces(&text).into_iter().step_by(16) {
            let encoding = tokenizer.encode_with_offsets(piece, true).unwrap();
            assert_eq!(encoding.ids, tokenizer.encode(piece, true).unwrap());
            assert_eq!(encoding.ids.len(), encoding.offsets.len());
            let ordered = encoding
                .offsets
                .windows(2)
                .all(|pair| pair[0].start <= pair[1].start && pair[0].end <= pair[1].end);
            assert!(
                ordered
                    && encoding
                        .offsets
                        .iter()
                        .all(|offsets| piece.get(offsets.clone()).is_some())
            );
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text() {
    let text = text();
    for tokenizer in [
        smollm2(),
        embedded("phi-3"),
        embedded("bge"),
        embedded("unigram"),
        folder("byte-fallback"),
    ] {
        let tokenizer = Arc::new(tokenizer);
        for piece in pieces(&text).into_iter().step_by(16) {
            let ids = tokenizer.encode(piece, true).unwrap();
            let mut stream = TextStream::new(tokenizer.clone(), Vec::new(), true);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).text).collect();
            streamed.push_str(&stream.finish());
            assert_eq!(streamed, tokenizer.decode(&ids, true));
        }
    }
}

#[test]
fn plain_text_never_has_control_tokens() {
    for tokenizer in [
        smollm2(),
        embedded("phi-3"),
        embedded("bge"),
        embedded("unigram"),
        folder("byte-fallback"),
    ] {
        let unknown = tokenizer.encode_plain("\u{10ABCD}").unwrap();
        for id in (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id)) {
            let spelled = tokenizer.token_text(id);
            let text = format!("a{spelled}b {spelled}{spelled}");
            let ids = tokenizer.encode_plain(&text).unwrap();
            let special: Vec<_> = ids
                .iter()
                .filter(|id| tokenizer.is_special(**id) && !unknown.contains(id))
                .collect();
            assert!(special.is_empty(), "{text:?}: {ids:?}");
        }
    }
}

#[test]
fn plain_text_without_control_tokens_has_the_same_ids() {
    let text = text();
    for tokenizer in [smollm2(), embedded("phi-3"), embedded("bge"), folder("byte-fallback")] {
        for piece in pieces(&text)
            .into_iter()
            .step_by(16)
            .filter(|piece| !piece.contains("<|") && !piece.contains("</s>"))
        {
            assert_eq!(
                tokenizer.encode_plain(piece).unwrap(),
                tokenizer.encode(piece, false).unwrap()
            );
        }
    }
}

#[test]
fn text_of_a_lossless_kind_survives_the_way_there_and_back() {
    let text = text();
    for tokenizer in [embedded("phi-3"), folder("byte-fallback")] {
        for piece in pieces(&text).into_iter().step_by(8) {
            let ids = tokenizer.encode_plain(piece).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_files_are_read_or_refused(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        for name in ["unigram", "bge"] {
            let mut bytes = unpacked(&fixture(&format!("{name}.gguf.gz")));
            for (at, byte) in &damage {
                *at.get_mut(&mut bytes) = *byte;
            }
            let read = Gguf::parse(&bytes).ok().and_then(|gguf| gguf::tokenizer(&gguf, ROWS).ok());
            if let Some(tokenizer) = read {
                let text = "Điều 1: “Mọi người” ﬁ ½ ㎏\u{85} e\u{301} 😀 [CLS]</s>";
                let ids = tokenizer.encode(text, true).unwrap_or_default();
                tokenizer.decode(&ids, true);
                tokenizer.encode_plain(text).unwrap_or_default();
            }
        }
    }
}
