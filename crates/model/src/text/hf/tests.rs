use serde_json::{Map, Value, json};

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// A tokenizer of whole words: `<unk>` 0, `<s>` 1, `</s>` 2, `hi` 3, `<end_of_turn>` 4.
fn words() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [special(1, "<s>"), special(4, "<end_of_turn>")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "WordLevel", "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "hi": 3, "<end_of_turn>": 4}},
    })
}

fn built(files: &[(&str, Value)]) -> Result<Tokenizer, String> {
    tokenizer(folder(files).path(), 100).map_err(|error| error.to_string())
}

#[test]
fn the_pipeline_is_as_the_file_says_but_never_truncates() {
    let tokenizer = built(&[(TOKENIZER, words())]).unwrap();
    assert_eq!(tokenizer.encode("hi hi ho", true).unwrap(), [1, 3, 3, 0]);
    assert_eq!(tokenizer.encode("hi", false).unwrap(), [3]);
    assert_eq!(tokenizer.decode(&[3, 3], false), "hi hi");
    assert_eq!(tokenizer.end_tokens(), [4]);
}

#[test]
fn named_special_tokens_are_special_and_the_file_says_what_is_put_around_a_text() {
    let settings = json!({"add_bos_token": false, "add_eos_token": true, "eos_token": {"content": "</s>"}});
    let tokenizer = built(&[(TOKENIZER, words()), ("tokenizer_config.json", settings)]).unwrap();
    assert_eq!(tokenizer.encode("hi", true).unwrap(), [1, 3]);
    assert!(tokenizer.is_special(2));
    assert_eq!(tokenizer.encode("</s>", false).unwrap(), [2]);
    assert_eq!(tokenizer.end_tokens(), [2, 4]);
}

#[test]
fn ends_come_from_every_file_that_names_them() {
    let ends = |files: &[(&str, Value)]| {
        let all = [&[(TOKENIZER, words())], files].concat();
        built(&all).unwrap().end_tokens().to_vec()
    };
    assert_eq!(
        ends(&[("generation_config.json", json!({"eos_token_id": [2, 3]}))]),
        [2, 3, 4]
    );
    assert_eq!(ends(&[("config.json", json!({"eos_token_id": 3}))]), [3, 4]);
    assert_eq!(
        ends(&[("config.json", json!({"text_config": {"eos_token_id": 2}}))]),
        [2, 4]
    );
    assert_eq!(
        ends(&[("special_tokens_map.json", json!({"eos_token": "</s>"}))]),
        [2, 4]
    );
    assert_eq!(
        ends(&[("config.json", json!({"eos_token_id": 3000}))]),
        [4],
        "not in the vocabulary"
    );
}

#[test]
fn added_tokens_of_the_settings_join_the_vocabulary() {
    let token = |content: &str| json!({"content": content, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false, "special": false});
    let settings = |id: &str| json!({"added_tokens_decoder": {id: token("<call>")}});
    let tokenizer = built(&[(TOKENIZER, words()), ("tokenizer_config.json", settings("5"))]).unwrap();
    assert_eq!(tokenizer.encode("hi<call>", false).unwrap(), [3, 5]);
    let refusal = built(&[(TOKENIZER, words()), ("tokenizer_config.json", settings("9"))])
        .err()
        .unwrap();
    assert!(
        refusal.contains("added_tokens_decoder") && refusal.contains('9'),
        "{refusal}"
    );
}

#[test]
fn a_token_without_an_embedding_is_refused_where_a_text_has_it() {
    let folder = folder(&[(TOKENIZER, words())]);
    let tokenizer = tokenizer(folder.path(), 4).unwrap();
    assert_eq!(tokenizer.encode("hi", true).unwrap(), [1, 3]);
    let refusal = tokenizer.encode("hi<end_of_turn>", true).unwrap_err().to_string();
    assert!(
        refusal.contains("token 4") && refusal.contains("4 tokens only"),
        "{refusal}"
    );
    assert_eq!(tokenizer.encode_plain("<end_of_turn>").unwrap(), [0, 0, 0]);
}

#[test]
fn what_is_missing_or_malformed_is_refused_by_file() {
    let missing = built(&[]).err().unwrap();
    assert!(missing.contains("tokenizer.json"), "{missing}");
    for file in [
        TOKENIZER,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "config.json",
    ] {
        let mut files = vec![(TOKENIZER, words())];
        files.push((file, json!("{not json")));
        let refusal = built(&files).err().unwrap_or_else(|| panic!("{file}"));
        assert!(refusal.contains(file), "{refusal}");
    }
    let mut table = words();
    table["normalizer"] =
        json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}]});
    assert!(
        built(&[(TOKENIZER, table)])
            .err()
            .unwrap()
            .contains("precompiled_charsmap: is too short")
    );
    let mut unknown = words();
    unknown["decoder"] = json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true});
    let refusal = built(&[(TOKENIZER, unknown)]).err().unwrap();
    assert!(refusal.contains("CTC"), "{refusal}");
}

fn rendered(files: &[(&str, Value)], extra: &[(&str, Value)]) -> Result<Option<String>, String> {
    let template = chat_template(folder(files).path()).map_err(|error| error.to_string())?;
    let extra: Map<String, Value> = extra
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let render = |template: ChatTemplate| template.render(&[], false, &extra).map_err(|error| error.to_string());
    template.map(render).transpose()
}

#[test]
fn a_template_is_found_in_each_of_its_places() {
    let own = ("chat_template.jinja", json!("own {{ eos_token }}"));
    let file = ("chat_template.json", json!({"chat_template": "file"}));
    let settings = (
        "tokenizer_config.json",
        json!({"chat_template": "settings", "eos_token": "</s>"}),
    );
    assert_eq!(rendered(&[], &[]), Ok(None));
    assert_eq!(
        rendered(std::slice::from_ref(&settings), &[]).unwrap().as_deref(),
        Some("settings")
    );
    assert_eq!(
        rendered(&[settings.clone(), file.clone()], &[]).unwrap().as_deref(),
        Some("file")
    );
    assert_eq!(
        rendered(&[settings, file, own], &[]).unwrap().as_deref(),
        Some("own </s>")
    );
}

#[test]
fn the_template_for_tools_is_used_with_tools_only() {
    let named = |name: &str| json!({"name": name, "template": name});
    let list = json!({"chat_template": [named("rag"), named("tool_use"), named("default")]});
    let files = [("tokenizer_config.json", list)];
    let tools = [("tools", json!([{"type": "function"}]))];
    assert_eq!(rendered(&files, &[]).unwrap().as_deref(), Some("default"));
    assert_eq!(rendered(&files, &tools).unwrap().as_deref(), Some("tool_use"));
    assert_eq!(
        rendered(&files, &[("tools", Value::Null)]).unwrap().as_deref(),
        Some("default")
    );
    let own = [
        ("chat_template.jinja", json!("own")),
        ("additional_chat_templates/tool_use.jinja", json!("with tools")),
    ];
    assert_eq!(rendered(&own, &tools).unwrap().as_deref(), Some("with tools"));
    let nameless = [("tokenizer_config.json", json!({"chat_template": [named("rag")]}))];
    assert!(
        rendered(&nameless, &[])
            .unwrap_err()
            .contains("no template is named \"default\" among [\"rag\"]")
    );
}
