use proptest::prelude::*;

use super::super::tests::{END, TOOL, tokenizer, vocabulary};
use super::*;

fn refusal(change: impl FnOnce(&mut BpeVocabulary)) -> String {
    let mut vocabulary = vocabulary();
    change(&mut vocabulary);
    Tokenizer::from_bpe(&vocabulary).err().expect("a refusal").to_string()
}

#[test]
fn bytes_are_merged_in_the_order_of_the_merges() {
    let ids = tokenizer().encode("hello w", false).unwrap();
    assert_eq!(ids, [258, u32::from(b'o'), 259]);
}

#[test]
fn spelled_out_control_tokens_are_found_unless_the_text_is_plain() {
    let tokenizer = tokenizer();
    assert_eq!(
        tokenizer.encode("h<end><tool>", false).unwrap(),
        [u32::from(b'h'), END, TOOL]
    );
    let plain = tokenizer.encode_plain("h<end><tool>").unwrap();
    let (text, added) = plain.split_at(plain.len() - 1);
    assert!(text.iter().all(|&id| id < 256), "{plain:?}");
    assert_eq!(added, [TOOL], "an added token is text");
}

#[test]
fn the_prefix_is_added_on_request_only() {
    let mut vocabulary = vocabulary();
    vocabulary.prefix = Some(END);
    let tokenizer = Tokenizer::from_bpe(&vocabulary).unwrap();
    assert_eq!(tokenizer.encode("h", true).unwrap(), [END, u32::from(b'h')]);
    assert_eq!(tokenizer.encode("h", false).unwrap(), [u32::from(b'h')]);
}

#[test]
fn only_special_tokens_are_skipped() {
    let tokenizer = tokenizer();
    let ids = [TOOL, END, u32::from(b'!')];
    assert_eq!(tokenizer.decode(&ids, false), "<tool><end>!");
    assert_eq!(tokenizer.decode(&ids, true), "<tool>!");
}

#[test]
fn a_token_outside_the_vocabulary_has_no_text() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.token_bytes(262), None);
    assert_eq!(tokenizer.token_text(262), "");
    assert_eq!(tokenizer.decode(&[u32::from(b'a'), 262, u32::MAX], false), "a");
    assert!(!tokenizer.is_special(262));
}

#[test]
fn half_a_character_is_shown_as_a_replacement() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("é", false).unwrap();
    assert_eq!(ids, [0xC3, 0xA9]);
    assert_eq!(tokenizer.token_bytes(0xC3), Some(&[0xC3][..]));
    assert_eq!(tokenizer.token_text(0xC3), "\u{FFFD}");
    assert_eq!(tokenizer.decode(&ids, false), "é");
}

#[test]
fn contradictory_vocabularies_are_refused_with_the_reason() {
    assert!(refusal(|v| v.kinds.truncate(5)).contains("262 tokens, but 5 token types"));
    assert!(refusal(|v| v.end_tokens.push(262)).contains("special id 262"));
    assert!(refusal(|v| v.prefix = Some(999)).contains("special id 999"));
    assert!(refusal(|v| v.tokens[7] = v.tokens[3].clone()).contains("tokens 3 and 7 are both"));
    assert!(refusal(|v| v.tokens[7].clear()).contains("token 7 is empty"));
    assert!(refusal(|v| v.merges.push(("h".into(), "missing".into()))).contains("missing"));
}

#[test]
fn offsets_are_the_bytes_of_each_token_its_space_included() {
    let mut vocabulary = vocabulary();
    vocabulary.prefix = Some(END);
    let tokenizer = Tokenizer::from_bpe(&vocabulary).unwrap();
    let encoding = tokenizer.encode_with_offsets("hell w<end>é", true).unwrap();
    assert_eq!(encoding.ids, [END, 258, 259, END, 0xC3, 0xA9]);
    assert_eq!(encoding.offsets, [0..0, 0..4, 4..6, 6..11, 11..13, 11..13]);
    assert_eq!((encoding.prefix, encoding.suffix), (1, 0));
    assert_eq!(tokenizer.token_id("<end>"), Some(END));
}

proptest! {
    #[test]
    fn offsets_come_with_the_same_ids_and_cover_the_text(text in "[ a-zé<>😀\\n]{0,40}") {
        let tokenizer = tokenizer();
        let encoding = tokenizer.encode_with_offsets(&text, true).unwrap();
        prop_assert_eq!(&encoding.ids, &tokenizer.encode(&text, true).unwrap());
        let mut covered = 0;
        for offsets in &encoding.offsets {
            prop_assert!(offsets.start <= covered && offsets.end >= covered, "{:?}", encoding.offsets);
            covered = offsets.end;
        }
        prop_assert_eq!(covered, text.len());
    }

    #[test]
    fn text_survives_the_way_there_and_back(text in any::<String>()) {
        let tokenizer = tokenizer();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, true).unwrap(), false), text.clone());
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_plain(&text).unwrap(), true), text);
    }
}
