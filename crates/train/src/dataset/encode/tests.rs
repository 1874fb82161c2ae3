//! Masks of completions, conversations and texts, on a vocabulary of letters and on SmolLM2's.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use rootstock_model::Checkpoint;
use rootstock_model::text::{ChatTemplate, Markers};

use super::*;
use crate::dataset::Message;
use crate::dataset::letters::{BOS, encoder, letters};

/// The text with what is learned in brackets.
fn shown(encoder: &Encoder, sample: &Sample) -> String {
    let mut text = String::new();
    let mut inside = false;
    for (&id, &learned) in sample.ids.iter().zip(&sample.learned) {
        if learned != inside {
            text.push(if learned { '[' } else { ']' });
            inside = learned;
        }
        text.push_str(&encoder.tokenizer().token_text(id));
    }
    if inside {
        text.push(']');
    }
    text
}

fn completion(prompt: &str, completion: &str) -> Example {
    Example::Completion {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    }
}

fn encoded(encoder: &Encoder, example: &Example) -> (Encoded, String) {
    let encoded = encoder.encode(example).unwrap();
    let shown = shown(encoder, &encoded.sample);
    (encoded, shown)
}

#[test]
fn a_completion_is_learned_with_its_end_and_bos_stands_once() {
    let encoder = encoder(Some(BOS), 100);
    for prompt in ["ab", "<s>ab"] {
        let (encoded, shown) = encoded(&encoder, &completion(prompt, " cd"));
        assert_eq!(shown, "<s>ab[ cd</s>]");
        assert!(encoded.ends && encoded.continues && !encoded.truncated);
    }
    assert_eq!(
        encoded(&encoder, &completion("a", "b</s>")).1,
        "<s>a[b</s>]",
        "an end that is there is enough"
    );
    assert_eq!(encoded(&encoder, &Example::Text("ab".to_owned())).1, "<s>[ab</s>]");
}

#[test]
fn nothing_is_learned_of_a_token_that_nothing_is_before() {
    let encoder = encoder(None, 100);
    assert_eq!(encoded(&encoder, &Example::Text("ab".to_owned())).1, "a[b</s>]");
    assert_eq!(encoded(&encoder, &completion("", "ab")).1, "a[b</s>]");
    let (encoded, shown) = encoded(&encoder, &Example::Text(String::new()));
    assert_eq!((shown.as_str(), encoded.ends), ("</s>", false));
}

#[test]
fn a_long_prompt_loses_its_beginning_and_a_long_completion_its_end() {
    let cases = [
        (Some(BOS), "abcdef", "xy", "<s>ef[xy</s>]"),
        (Some(BOS), "abcdef", "uvwxyz", "<s>[uvwxy]"),
        (None, "abcdef", "xy", "def[xy</s>]"),
        (None, "abcdef", "uvwxyz", "f[uvwxy]"),
        (None, "", "uvwxyz", "u[vwxyz]"),
    ];
    for (prefix, prompt, answer, expected) in cases {
        let (encoded, shown) = encoded(&encoder(prefix, 6), &completion(prompt, answer));
        assert_eq!(shown, expected);
        assert!(encoded.truncated && encoded.whole > 6 && encoded.cut_before <= prompt.len());
        assert_eq!(encoded.ends, shown.ends_with("</s>]"), "{shown}");
    }
    let text = Example::Text("abcdefgh".to_owned());
    assert_eq!(encoded(&encoder(None, 6), &text).1, "a[bcdef]");
    assert_eq!(encoder(None, 6).encode_whole(&text).unwrap().sample.len(), 9);
}

#[test]
fn the_end_of_a_completion_is_cut_if_so_set() {
    let settings = EncoderSettings {
        truncation: Truncation::End,
        ..encoder(None, 6).settings().clone()
    };
    let encoder = Encoder::new(letters(None), None, settings).unwrap();
    assert_eq!(encoded(&encoder, &completion("abcd", "wxyz")).1, "abcd[wx]");
}

#[test]
fn settings_that_make_no_sample_are_refused() {
    let settings = |max_length, end| EncoderSettings {
        max_length,
        end,
        truncation: Truncation::default(),
    };
    let refusal = |settings| Encoder::new(letters(None), None, settings).err().unwrap().to_string();
    assert!(refusal(settings(1, None)).contains("at least 2 tokens, got 1"));
    assert!(refusal(settings(9, Some(29))).contains("the end token is 29, but the vocabulary has 29"));
    let conversation = Example::Conversation(vec![message("user", "hi")]);
    let error = encoder(None, 9).encode(&conversation).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

static SMOLLM2: LazyLock<Encoder> = LazyLock::new(|| {
    let path = std::env::var_os("ROOTSTOCK_TEST_MODEL").map_or_else(
        || workspace().join(".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"),
        PathBuf::from,
    );
    let model = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}; `make model` fetches the test model"));
    Encoder::for_model(&model, 512, Truncation::default()).unwrap()
});

/// SmolLM2's tokens under another template.
fn with_template(template: &str) -> Encoder {
    let markers = Markers {
        bos: "<|im_start|>".to_owned(),
        eos: "<|im_end|>".to_owned(),
        ..Markers::default()
    };
    let template = ChatTemplate::new(template, markers).unwrap();
    let settings = EncoderSettings {
        max_length: 4096,
        ..SMOLLM2.settings().clone()
    };
    Encoder::new(SMOLLM2.tokenizer().clone(), Some(template), settings).unwrap()
}

fn real_template(name: &str) -> Encoder {
    let path = workspace().join(format!("crates/model/tests/fixtures/chat/{name}.jinja"));
    with_template(&std::fs::read_to_string(path).unwrap())
}

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

/// Two questions and their answers.
fn talk() -> Example {
    Example::Conversation(vec![
        message("user", "Is it?"),
        message("assistant", "It is."),
        message("user", "Why?"),
        message("assistant", "Because."),
    ])
}

/// The text of every run of learned tokens.
fn learned(encoder: &Encoder, example: &Example) -> Vec<String> {
    let sample = encoder.encode(example).unwrap().sample;
    let pairs: Vec<_> = sample.ids.iter().zip(&sample.learned).collect();
    let runs = pairs.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1);
    runs.map(|run| {
        let ids: Vec<u32> = run.iter().map(|pair| *pair.0).collect();
        encoder.tokenizer().decode(&ids, false)
    })
    .collect()
}

#[test]
fn the_assistants_turns_are_learned_with_their_ends() {
    assert_eq!(learned(&SMOLLM2, &talk()), ["It is.<|im_end|>", "Because.<|im_end|>"]);
    assert!(SMOLLM2.encode(&talk()).unwrap().ends);
    let open = Example::Conversation(vec![message("user", "Is it?")]);
    assert_eq!(learned(&SMOLLM2, &open), [""; 0]);
}

#[test]
fn a_template_that_leaves_out_earlier_thoughts_is_followed() {
    let expected = ["It is.<|im_end|>", "<think>\n\n</think>\n\nBecause.<|im_end|>"];
    assert_eq!(learned(&real_template("qwen3"), &talk()), expected);
    let thoughts = "<think>\nHm.\n</think>\n\n";
    let Example::Conversation(mut messages) = talk() else {
        unreachable!()
    };
    messages[1].content.insert_str(0, thoughts);
    assert_eq!(
        learned(&real_template("qwen3"), &Example::Conversation(messages)),
        expected
    );
}

#[test]
fn turns_that_are_not_asked_for_as_they_are_written_are_refused() {
    let error = real_template("deepseek-r1-distill-qwen")
        .encode(&talk())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("message 2") && error.contains("<think>") && error.contains("generation %}"),
        "{error}"
    );
}

#[test]
fn real_templates_are_followed_or_refused() {
    let mut refused = Vec::new();
    for entry in std::fs::read_dir(workspace().join("crates/model/tests/fixtures/chat")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let encoder = real_template(&name);
        let Ok(encoded) = encoder.encode(&talk()) else {
            refused.push(name);
            continue;
        };
        assert!(!encoded.truncated, "{name}");
        let learned = learned(&encoder, &talk());
        let [one, two] = learned.as_slice() else {
            panic!("{name}: {learned:?}");
        };
        assert!(
            one.contains("It is.") && two.contains("Because."),
            "{name}: {learned:?}"
        );
        let given = learned.concat();
        assert!(
            !given.contains("Is it?") && !given.contains("Why?"),
            "{name}: {learned:?}"
        );
    }
    refused.sort();
    // Their generation prompt begins a thought that they leave out of a conversation.
    assert_eq!(refused, ["deepseek-r1-distill-qwen", "qwen3.5", "qwq"]);
}

#[test]
fn what_a_template_writes_behind_the_end_of_a_turn_is_not_learned() {
    let template = "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}\
                    assistant\n{% else %}<|endoftext|>{% endif %}";
    let expected = ["It is.<|im_end|>", "Because.<|im_end|>"];
    assert_eq!(learned(&with_template(template), &talk()), expected);
    let said = Example::Conversation(vec![
        message("user", "Say it"),
        message("assistant", "<|im_end|> it is"),
        message("user", "So"),
    ]);
    assert_eq!(learned(&with_template(template), &said), ["<|im_end|> it is<|im_end|>"]);
}

#[test]
fn a_turn_without_an_end_token_is_learned_to_its_end_and_said_to_have_none() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let encoder = with_template(template);
    assert_eq!(learned(&encoder, &talk()), [" It is.\n", " Because.\n"]);
    assert!(!encoder.encode(&talk()).unwrap().ends);
}

#[test]
fn a_templates_own_marks_decide() {
    let marks = "{% for m in messages %}{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>
{% endgeneration %}{% else %}{{ m.content }}
{% endif %}{% endfor %}";
    let expected = ["It is.<|im_end|>\n", "Because.<|im_end|>\n"];
    assert_eq!(learned(&with_template(marks), &talk()), expected);
}

#[test]
fn a_prompt_that_ends_within_a_token_is_said_to() {
    let cases = [
        ("This e-mail is", " spam", true, " spam<|im_end|>"),
        ("This e-mail is ", "spam", false, " spam<|im_end|>"),
        ("Answer:\n", "spam", true, "spam<|im_end|>"),
        ("Answer:\n\n", "spam", false, "spam<|im_end|>"),
    ];
    for (prompt, answer, continues, expected) in cases {
        let example = completion(prompt, answer);
        assert_eq!(SMOLLM2.encode(&example).unwrap().continues, continues, "{prompt:?}");
        assert_eq!(learned(&SMOLLM2, &example), [expected], "{prompt:?}");
    }
}

proptest! {
    #[test]
    fn what_is_learned_reads_as_the_completion(
        prompt in "[a-zA-Zé0-9 .,:\\n-]{0,60}[a-z:.]",
        answer in " [a-zA-Zé😀0-9 .,:\\n-]{1,40}",
    ) {
        let Encoded { sample, continues, .. } = SMOLLM2.encode(&completion(&prompt, &answer)).unwrap();
        let tokenizer = SMOLLM2.tokenizer();
        let read = tokenizer.decode(&sample.learned_ids(), false);
        prop_assert_eq!(read, format!("{answer}<|im_end|>"));
        prop_assert!(continues);
        let parts = [tokenizer.encode(&prompt, true).unwrap(), tokenizer.encode(&answer, false).unwrap()].concat();
        prop_assert_eq!(&sample.ids[..sample.len() - 1], &parts);
    }

    #[test]
    fn any_completion_is_learned_whole(prompt in "\\PC{0,40}", answer in "\\PC{1,40}") {
        let Encoded { sample, continues, .. } = SMOLLM2.encode(&completion(&prompt, &answer)).unwrap();
        let read = SMOLLM2.tokenizer().decode(&sample.learned_ids(), false);
        let expected = format!("{answer}<|im_end|>");
        // Nothing is before the first token, which may hold the whole prompt and more.
        let first = SMOLLM2.tokenizer().token_bytes(sample.ids[0]).unwrap().len();
        let first_alone = first > prompt.len() && expected.ends_with(&read);
        prop_assert!(read.ends_with(&expected) || first_alone || read.contains('\u{FFFD}'), "{:?} for {:?}", read, expected);
        prop_assert!(!continues || prompt.is_empty() || read == expected, "{:?} for {:?}", read, expected);
    }
}
