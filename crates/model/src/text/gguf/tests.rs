use proptest::prelude::*;

use super::*;

/// A metadata value as GGUF writes it.
enum Field {
    Text(&'static str),
    Number(u32),
    Flag(bool),
    Texts(Vec<String>),
    Scores(Vec<f32>),
    Codes(Vec<i32>),
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array<T>(code: u32, items: &[T], bytes: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    let head = [9, code].map(u32::to_le_bytes).concat();
    let length = (items.len() as u64).to_le_bytes();
    [head, length.to_vec(), items.iter().flat_map(bytes).collect()].concat()
}

impl Field {
    fn bytes(&self) -> Vec<u8> {
        let code = |code: u32| code.to_le_bytes().to_vec();
        match self {
            Self::Text(text) => [code(8), string(text)].concat(),
            Self::Number(number) => [code(4), number.to_le_bytes().to_vec()].concat(),
            Self::Flag(flag) => [code(7), vec![u8::from(*flag)]].concat(),
            Self::Texts(texts) => array(8, texts, |text| string(text)),
            Self::Scores(scores) => array(6, scores, |score| score.to_le_bytes().to_vec()),
            Self::Codes(codes) => array(5, codes, |code| code.to_le_bytes().to_vec()),
        }
    }
}

/// A file of metadata only; later fields stand in for earlier ones of the same name.
fn file(fields: Vec<(&'static str, Field)>) -> Gguf {
    let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
    let head = [
        b"GGUF".to_vec(),
        3u32.to_le_bytes().to_vec(),
        0u64.to_le_bytes().to_vec(),
    ]
    .concat();
    let count = (fields.len() as u64).to_le_bytes().to_vec();
    let entries = fields.iter().flat_map(|(name, field)| {
        let key = match name.contains('.') {
            true => (*name).to_owned(),
            false => format!("tokenizer.ggml.{name}"),
        };
        [string(&key), field.bytes()].concat()
    });
    Gguf::parse(&[head, count, entries.collect()].concat()).unwrap()
}

/// Pieces in the order of their ids with score and llama.cpp's type.
fn pieces(model: &'static str, pieces: &[(&str, f32, i32)]) -> Vec<(&'static str, Field)> {
    vec![
        ("general.architecture", Field::Text("llama")),
        ("model", Field::Text(model)),
        (
            "tokens",
            Field::Texts(pieces.iter().map(|piece| piece.0.to_owned()).collect()),
        ),
        ("scores", Field::Scores(pieces.iter().map(|piece| piece.1).collect())),
        ("token_type", Field::Codes(pieces.iter().map(|piece| piece.2).collect())),
    ]
}

const SPECIAL: [(&str, f32, i32); 3] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)];
/// Id of the token for the byte 0.
const BYTES: u32 = 3;
/// Id of the first piece after the bytes.
const FIRST: u32 = BYTES + 256;

/// `<unk>`, `<s>`, `</s>`, a token for every byte, then these.
const WORDS: [(&str, f32, i32); 9] = [
    ("▁", -5.0, 1),
    ("h", -6.0, 1),
    ("i", -7.0, 1),
    ("hi", -1.0, 1),
    ("▁h", -2.0, 1),
    ("▁hi", -3.0, 1),
    ("  ", -1000.0, 4),
    ("   ", -1000.0, 4),
    ("<b>", -1000.0, 4),
];

fn sentence_piece(extra: Vec<(&'static str, Field)>) -> Result<Tokenizer, String> {
    let bytes: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut all = SPECIAL.to_vec();
    all.extend(bytes.iter().map(|byte| (byte.as_str(), 0.0, 6)));
    all.extend(WORDS);
    let mut fields = pieces("llama", &all);
    fields.push(("unknown_token_id", Field::Number(0)));
    fields.push(("bos_token_id", Field::Number(1)));
    fields.push(("eos_token_id", Field::Number(2)));
    fields.extend(extra);
    tokenizer(&file(fields), 1000).map_err(|error| error.to_string())
}

/// The id of one of [`WORDS`].
fn word(spelling: &str) -> u32 {
    FIRST + WORDS.iter().position(|word| word.0 == spelling).unwrap() as u32
}

#[test]
fn the_best_score_is_merged_first() {
    let tokenizer = sentence_piece(vec![]).unwrap();
    // "hi" has a better score than "▁h"; "▁hi" is made from it.
    assert_eq!(tokenizer.encode("hi", false).unwrap(), [word("▁hi")]);
    assert_eq!(tokenizer.encode("hhi", false).unwrap(), [word("▁h"), word("hi")]);
    assert_eq!(tokenizer.decode(&[word("▁h"), word("hi")], false), "hhi");
}

#[test]
fn what_has_no_piece_is_spelled_in_bytes() {
    let tokenizer = sentence_piece(vec![]).unwrap();
    let ids = tokenizer.encode("hé", false).unwrap();
    assert_eq!(ids, [word("▁h"), BYTES + 0xC3, BYTES + 0xA9]);
    assert_eq!(tokenizer.decode(&ids, false), "hé");
    assert_eq!(tokenizer.decode(&ids[..2], false), "h\u{FFFD}");
    assert_eq!(tokenizer.token_bytes(BYTES + 10), Some(&b"\n"[..]));
    let spelled = tokenizer.encode("<0x0A>", false).unwrap();
    assert!(!spelled.contains(&(BYTES + 10)), "{spelled:?}");
}

#[test]
fn a_space_is_put_before_every_stretch_of_text_unless_the_file_says_not_to() {
    let tokenizer = sentence_piece(vec![]).unwrap();
    assert_eq!(
        tokenizer.encode("hi</s>hi", true).unwrap(),
        [1, word("▁hi"), 2, word("▁hi")]
    );
    assert_eq!(tokenizer.decode(&[word("▁hi"), word("▁hi")], false), "hi hi");
    assert_eq!(tokenizer.decode(&[1, word("▁hi")], false), "<s> hi");
    assert_eq!(tokenizer.decode(&[1, word("▁hi")], true), "hi");
    let without = sentence_piece(vec![("add_space_prefix", Field::Flag(false))]).unwrap();
    assert_eq!(without.encode("hi hi", false).unwrap(), [word("hi"), word("▁hi")]);
    assert_eq!(without.decode(&[word("▁hi")], false), " hi");
}

#[test]
fn runs_of_spaces_are_merged_the_longest_first() {
    let tokenizer = sentence_piece(vec![("add_space_prefix", Field::Flag(false))]).unwrap();
    assert_eq!(
        tokenizer.encode("     h", false).unwrap(),
        [word("   "), word("  "), word("h")]
    );
    assert_eq!(tokenizer.decode(&[word("   "), word("h")], false), "   h");
}

#[test]
fn added_tokens_are_matched_whole_in_plain_text_too() {
    let tokenizer = sentence_piece(vec![]).unwrap();
    assert_eq!(tokenizer.encode_plain("hi<b>").unwrap(), [word("▁hi"), word("<b>")]);
    let plain = tokenizer.encode_plain("<s>").unwrap();
    assert!(!plain.contains(&1), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true), "<s>");
}

#[test]
fn phi3_takes_the_spaces_after_its_control_tokens() {
    let tokenizer = sentence_piece(vec![("general.architecture", Field::Text("phi3"))]).unwrap();
    assert_eq!(tokenizer.encode("</s>  hi", false).unwrap(), [2, word("▁hi")]);
    let kept = tokenizer.encode("<s> hi", false).unwrap();
    assert_eq!(kept, [1, word("  "), word("hi")]);
}

#[test]
fn scores_must_fit_the_tokens() {
    let refusal = |scores: Vec<f32>| sentence_piece(vec![("scores", Field::Scores(scores))]).err().unwrap();
    assert!(refusal(vec![0.0]).contains("tokenizer.ggml.scores: 1 scores, but 268 tokens"));
    assert!(refusal(vec![f32::NAN; 268]).contains("token 0 is not a finite number"));
    let outside = sentence_piece(vec![("eos_token_id", Field::Number(999))])
        .err()
        .unwrap();
    assert!(
        outside.contains("tokenizer.ggml.eos_token_id: special id 999, but only 268 tokens"),
        "{outside}"
    );
}

#[test]
fn unigram_takes_the_likeliest_pieces_and_ends_with_the_end() {
    let mut fields = pieces(
        "t5",
        &[
            ("<pad>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("<unk>", 0.0, 2),
            ("▁", -4.0, 1),
            ("▁a", -1.0, 1),
            ("b", -1.5, 1),
            ("ab", -9.0, 1),
            ("▁ab", -3.0, 1),
        ],
    );
    fields.extend([
        ("eos_token_id", Field::Number(1)),
        ("unknown_token_id", Field::Number(2)),
    ]);
    let tokenizer = tokenizer(&file(fields), 8).unwrap();
    assert_eq!(
        tokenizer.encode("ab", true).unwrap(),
        [4, 5, 1],
        "▁a b costs 2.5, ▁ab 3"
    );
    assert_eq!(tokenizer.encode("  ab   x ", false).unwrap(), [4, 5, 3, 2]);
    assert_eq!(tokenizer.decode(&[4, 5, 3, 5], false), "ab b");
    assert_eq!(tokenizer.end_tokens(), [1]);
    let plain = tokenizer.encode_plain("a</s>b").unwrap();
    assert!(!plain.contains(&1), "{plain:?}");
    let unknown = "é".repeat(10_000);
    assert_eq!(
        tokenizer.encode_plain(&unknown).unwrap(),
        [3, 2],
        "what is unknown is not cut apart"
    );
}

fn word_piece(extra: Vec<(&'static str, Field)>) -> Tokenizer {
    let mut fields = pieces(
        "bert",
        &[
            ("[PAD]", 0.0, 3),
            ("[UNK]", 0.0, 3),
            ("[CLS]", 0.0, 3),
            ("[SEP]", 0.0, 3),
            ("▁hell", 0.0, 1),
            ("o", 0.0, 1),
            ("▁.", 0.0, 1),
            ("▁Hell", 0.0, 1),
        ],
    );
    fields.extend([
        ("unknown_token_id", Field::Number(1)),
        ("cls_token_id", Field::Number(2)),
        ("seperator_token_id", Field::Number(3)),
    ]);
    fields.extend(extra);
    tokenizer(&file(fields), 8).unwrap()
}

#[test]
fn word_piece_marks_continuations_and_stands_between_markers() {
    let tokenizer = word_piece(vec![]);
    let ids = tokenizer.encode("Héllo hell. xyz", true).unwrap();
    assert_eq!(ids, [2, 4, 5, 4, 6, 1, 3]);
    assert_eq!(tokenizer.decode(&ids, true), "hello hell.");
    assert_eq!(tokenizer.decode(&[5], false), "##o");
    let cased = word_piece(vec![("tokenizer.ggml.normalizer.lowercase", Field::Flag(false))]);
    assert_eq!(cased.encode("Hello", false).unwrap(), [7, 5]);
}

#[test]
fn names_that_are_not_known_are_refused_with_those_that_are() {
    let refusal = |fields| tokenizer(&file(fields), 8).err().unwrap().to_string();
    let model = refusal(pieces("plamo2", &SPECIAL));
    assert!(
        model.contains("tokenizer.ggml.model: \"plamo2\"") && model.contains("gpt2, llama, t5, bert"),
        "{model}"
    );
    let mut fields = pieces("gpt2", &SPECIAL);
    fields.push(("pre", Field::Text("kimi-k2")));
    let pre = refusal(fields);
    assert!(
        pre.contains("tokenizer.ggml.pre: \"kimi-k2\"") && pre.contains("llama-bpe"),
        "{pre}"
    );
}

#[test]
fn every_way_of_cutting_can_be_built() {
    for name in Cut::gguf_names() {
        let mut fields = pieces("gpt2", &[("a", 0.0, 1), ("<s>", 0.0, 3)]);
        fields.extend([("merges", Field::Texts(vec![])), ("bos_token_id", Field::Number(1))]);
        fields.push(("pre", Field::Text(name)));
        let tokenizer = tokenizer(&file(fields), 8).unwrap_or_else(|error| panic!("{name}: {error}"));
        let begins = matches!(Cut::from_gguf_name(name), Some(Cut::Llama3 | Cut::Tekken));
        assert_eq!(
            tokenizer.encode("a", true).unwrap().len(),
            1 + usize::from(begins),
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_survives_the_way_through_pieces_and_bytes(text in any::<String>(), ids in prop::collection::vec(0u32..300, 0..30)) {
        let tokenizer = sentence_piece(vec![]).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_plain(&text).unwrap(), false), text.clone());
        tokenizer.encode(&text, true).unwrap();
        tokenizer.decode(&ids, false);
    }

    #[test]
    fn no_text_makes_word_piece_fail(text in any::<String>()) {
        let tokenizer = word_piece(vec![]);
        tokenizer.decode(&tokenizer.encode(&text, true).unwrap(), true);
        tokenizer.encode_plain(&text).unwrap();
    }
}
