use serde_json::{Map, json};

use super::*;
use crate::text::Tokenizer;

fn tokenizer(change: impl FnOnce(&mut File)) -> Result<Tokenizer, String> {
    let mut file = File::tiny();
    change(&mut file);
    file.open().unwrap().tokenizer().map_err(|error| error.to_string())
}

fn tokenizer_refusal(key: &str, value: Option<Value>) -> String {
    let change = |file: &mut File| match value {
        Some(value) => file.set(key, value),
        None => drop(file.metadata.remove(key)),
    };
    tokenizer(change).err().expect("a refusal")
}

fn tokenizer_with_end() -> Tokenizer {
    tokenizer(|file| file.set("tokenizer.ggml.add_eos_token", Value::Bool(true))).unwrap()
}

#[test]
fn the_embedded_vocabulary_makes_a_tokenizer() {
    let tokenizer = tokenizer(|_| {}).unwrap();
    assert_eq!(tokenizer.encode("hi<|im_end|>i", true).unwrap(), [2, 3, 1]);
    assert_eq!(
        tokenizer.end_tokens(),
        [2, 3, 4],
        "the stated one and the control tokens that end turns"
    );
    assert_eq!(tokenizer.vocab_size(), 5);
}

#[test]
fn a_token_that_is_not_control_does_not_end_a_turn() {
    let kinds = Value::Array(Array::I32(vec![1, 1, 1, 4, 1]));
    let tokenizer = tokenizer(|file| file.set("tokenizer.ggml.token_type", kinds)).unwrap();
    assert_eq!(tokenizer.end_tokens(), [2]);
    assert_eq!(tokenizer.encode("<|im_end|>", false).unwrap(), [3]);
    assert!(!tokenizer.is_special(3));
}

#[test]
fn beginning_and_end_of_sequence_are_added_where_the_file_asks_for_them() {
    let with_bos = |file: &mut File| {
        file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        file.set("tokenizer.ggml.bos_token_id", Value::U32(4));
    };
    let tokenizer = tokenizer(with_bos).unwrap();
    assert_eq!(tokenizer.encode("hi", true).unwrap(), [4, 2]);
    assert_eq!(tokenizer.encode("hi", false).unwrap(), [2]);
    let after = tokenizer_with_end().encode("hi", true).unwrap();
    assert_eq!(after, [2, 2], "the token that ends a sequence is 2");
    let missing = tokenizer_refusal("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)));
    assert!(missing.contains("tokenizer.ggml.bos_token_id"), "{missing}");
}

#[test]
fn tokenizers_that_are_not_understood_are_refused_by_name() {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let texts = |items: &[&str]| {
        Some(Value::Array(Array::String(
            items.iter().map(|&item| item.to_owned()).collect(),
        )))
    };
    for (key, value) in [
        ("tokenizer.ggml.model", text("rwkv")),
        ("tokenizer.ggml.model", None),
        ("tokenizer.ggml.pre", text("unheard-of")),
        ("tokenizer.ggml.pre", None),
        ("tokenizer.ggml.tokens", None),
        ("tokenizer.ggml.merges", texts(&["h"])),
        ("tokenizer.ggml.merges", texts(&["h i i"])),
    ] {
        let message = tokenizer_refusal(key, value);
        assert!(message.contains(key), "{key}: {message}");
    }
    let many = tokenizer_refusal("tokenizer.ggml.tokens", texts(&["a", "b", "c", "d", "e", "f", "g"]));
    assert!(many.contains("7 tokens"), "{many}");
    let outside = tokenizer_refusal("tokenizer.ggml.eos_token_id", Some(Value::U32(5)));
    assert!(outside.contains("special id 5"), "{outside}");
}

#[test]
fn the_embedded_template_knows_the_special_tokens() {
    let mut file = File::tiny();
    assert!(file.open().unwrap().chat_template().unwrap().is_none());
    let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    file.set("tokenizer.chat_template", Value::String(source.to_owned()));
    let template = file.open().unwrap().chat_template().unwrap().unwrap();
    let messages = [json!({"role": "user", "content": "x"})];
    assert_eq!(template.render(&messages, true, &Map::new()).unwrap(), "xhi");
    file.set("tokenizer.chat_template", Value::String("{% if".to_owned()));
    assert!(file.open().unwrap().chat_template().is_err());
}
