//! Ids and loss masks against those that transformers makes (fixtures/masks/make.py): a byte-level tokenizer and a SentencePiece
//! one, both with a token before every text.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use rootstock_model::text::{ChatTemplate, Markers, Tokenizer, hf};
use rootstock_train::dataset::{Encoder, EncoderSettings, Example, Message, Truncation};
use serde_json::Value;

const NAMES: [&str; 2] = ["byte-level", "byte-fallback"];

fn expected(name: &str) -> Value {
    let expected: Value = serde_json::from_str(include_str!("fixtures/masks/expected.json")).unwrap();
    expected[name].clone()
}

fn tokenizer(name: &str) -> Tokenizer {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../model/tests/fixtures/tokens")
        .join(name);
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(packed).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = Vec::new();
        GzDecoder::new(std::fs::File::open(&path).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        std::fs::write(folder.path().join(path.file_stem().unwrap()), bytes).unwrap();
    }
    hf::tokenizer(folder.path(), 50_000).unwrap()
}

fn encoder(name: &str) -> Encoder {
    let (tokenizer, eos) = (tokenizer(name), expected(name)["eos"].as_str().unwrap().to_owned());
    let settings = EncoderSettings {
        max_length: 512,
        end: tokenizer.token_id(&eos),
        truncation: Truncation::default(),
    };
    let markers = Markers {
        eos,
        ..Markers::default()
    };
    let template = ChatTemplate::new(include_str!("fixtures/masks/marked.jinja"), markers).unwrap();
    Encoder::new(Arc::new(tokenizer), Some(template), settings).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Compares with ids and mask; the first token is never learned.
fn compare(encoder: &Encoder, example: &Example, expected: &Value) {
    let sample = encoder.encode(example).unwrap().sample;
    let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
    let learned: Vec<u8> = serde_json::from_value(expected["learned"].clone()).unwrap();
    let learned: Vec<bool> = learned
        .iter()
        .enumerate()
        .map(|(at, &mark)| mark != 0 && at > 0)
        .collect();
    assert_eq!(sample.ids, ids, "{example:?}");
    assert_eq!(sample.learned, learned, "{example:?}");
}

#[test]
fn marked_turns_are_learned_as_in_transformers() {
    for name in NAMES {
        let encoder = encoder(name);
        for talk in expected(name)["talks"].as_array().unwrap() {
            let message = |turn: &Value| Message {
                role: text(&turn["role"]),
                content: text(&turn["content"]),
            };
            let messages = talk["messages"].as_array().unwrap().iter().map(message).collect();
            compare(&encoder, &Example::Conversation(messages), talk);
        }
    }
}

#[test]
fn completions_are_learned_as_their_offsets_in_transformers_tell() {
    for name in NAMES {
        let encoder = encoder(name);
        for pair in expected(name)["pairs"].as_array().unwrap() {
            let example = Example::Completion {
                prompt: text(&pair["prompt"]),
                completion: text(&pair["completion"]),
            };
            compare(&encoder, &example, pair);
        }
    }
}
