use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{Decoder as _, DecoderWrapper};

use super::*;

const TOKENS: [&str; 14] = [
    "▁Hello", "▁", "▁▁", "##ing", "world", ".", "n't", "<0x41>", "<0xE2>", "Ġa", "Ã", "©", "</s>", " ' ",
];

fn decoders() -> Vec<Value> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = |start: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": 0});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    vec![
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}),
        json!({"type": "Sequence", "decoders": [replace, fallback, fuse, strip(1)]}),
        json!({"type": "Sequence", "decoders": [replace, fallback, fuse]}),
        json!({"type": "Sequence", "decoders": [replace, strip(2), fuse]}),
    ]
}

fn spelling(decoder: &Value) -> Result<Spelling, String> {
    let decoder = serde_json::from_value(decoder.clone()).map_err(|error: serde_json::Error| error.to_string())?;
    Spelling::by(
        &decoder,
        TOKENS.iter().map(|token| Some(((*token).to_owned(), false))).collect(),
    )
}

fn decoded(spelling: &Spelling, ids: &[TokenId]) -> Vec<u8> {
    let rest = ids.iter().skip(1).map(|&id| &*spelling.token(id).unwrap().bytes);
    ids.first()
        .map(|&id| spelling.first_bytes(id).unwrap())
        .into_iter()
        .chain(rest)
        .flatten()
        .copied()
        .collect()
}

#[test]
fn decoders_that_are_not_understood_are_refused_by_name() {
    let refusal = |decoder| spelling(&decoder).err().expect("a refusal");
    assert!(refusal(json!({"type": "BPEDecoder", "suffix": "</w>"})).contains("BPEDecoder"));
    let regex = json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""});
    assert!(refusal(regex.clone()).contains("a+"));
    let after = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]});
    assert!(refusal(after).contains("ByteFallback"));
}

proptest! {
    #[test]
    fn text_reads_as_the_decoders_of_the_crate_read_it(
        which in 0..8usize,
        ids in prop::collection::vec(0..TOKENS.len() as TokenId, 0..12),
    ) {
        let decoder = &decoders()[which];
        let theirs: DecoderWrapper = serde_json::from_value(decoder.clone()).unwrap();
        let tokens = ids.iter().map(|&id| TOKENS[id as usize].to_owned()).collect();
        let expected = theirs.decode(tokens).unwrap();
        let bytes = decoded(&spelling(decoder).unwrap(), &ids);
        // The crate writes one replacement for each byte of a run of byte tokens that is not UTF-8 as a whole.
        if let Ok(text) = String::from_utf8(bytes.clone()) {
            prop_assert_eq!(text, expected);
        } else if which == 0 {
            prop_assert_eq!(String::from_utf8_lossy(&bytes), expected);
        }
    }
}
