//! Tiny models over a text, against what their logits say row by row.

use std::fs;
use std::path::{Path, PathBuf};

use rootstock_engine::native::ActivationPrecision;
use rootstock_model::Checkpoint;
use serde_json::{Value, json};

use super::*;

const TEXT: &str =
    "The captain looked at the sea, and the sea looked back at him; neither of them said a word until the evening.";

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// A folder with a tiny model and the tokenizer.
fn model(arch: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for from in [fixture("tiny").join(arch), fixture("tiny-tokenizer")] {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
    }
    dir
}

fn open(model: &Path, adapter: Option<&Path>) -> Subject {
    try_open(model, adapter, 32).unwrap_or_else(|error| panic!("{error:#}"))
}

fn try_open(model: &Path, adapter: Option<&Path>, context: usize) -> Result<Subject> {
    let settings = SubjectSettings {
        name: "tiny",
        adapter,
        context,
        threads: 1,
        activations: ActivationPrecision::F32,
    };
    Subject::new(&Checkpoint::open(model)?, settings)
}

fn windows(subject: &Subject, length: usize, most: usize) -> Windows {
    Windows::of(TEXT, subject.tokenizer(), Cut { length, most }).unwrap()
}

fn change_tokenizer(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut tokenizer = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut tokenizer);
    fs::write(&path, tokenizer.to_string()).unwrap();
}

/// Has a tokenizer put tokens before every text.
fn start_with(prefix: &[u32], tokenizer: &mut Value) {
    let special = |_: &u32| json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = prefix.iter().map(special).chain([text]).collect();
    tokenizer["post_processor"]["single"] = json!(single);
    tokenizer["post_processor"]["special_tokens"] = json!({"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}});
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
    row.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

#[test]
fn an_adapter_is_as_far_from_its_base_as_their_logits_say_in_pieces_of_any_size() {
    let folder = model("llama3-rope");
    let mut source = open(folder.path(), None);
    let mut other = open(folder.path(), Some(&fixture("tiny/llama3-rope/adapter")));
    let windows = windows(&source, 24, 60);
    let (mut kl, mut losses, mut tokens) = (0.0, [0.0; 2], 0);
    for window in windows.iter() {
        let inputs = &window[..window.len() - 1];
        let mut logits = [Logits::default(), Logits::default()];
        source.run(inputs, 0, &mut logits[0]).unwrap();
        other.run(inputs, 0, &mut logits[1]).unwrap();
        let rows = logits[0].values.chunks(256).zip(logits[1].values.chunks(256));
        for ((p, q), &target) in rows.zip(&window[1..]) {
            let (p, q) = (log_softmax(p), log_softmax(q));
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            losses[0] -= p[target as usize];
            losses[1] -= q[target as usize];
            tokens += 1;
        }
    }
    assert_eq!(windows.predicted(), tokens);
    let [whole, pieces] = [usize::MAX, 5].map(|at_once| {
        let told = std::cell::Cell::new(0);
        let got = compare_rows(&mut source, &mut other, &windows, (at_once, |done| told.set(done))).unwrap();
        assert_eq!(told.get(), tokens);
        got
    });
    assert_eq!(whole, pieces);
    let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-5, "{got} for {expected}");
    near(whole.kl.value, kl / tokens as f64);
    near(whole.source.value, (losses[0] / tokens as f64).exp());
    near(whole.other.value, (losses[1] / tokens as f64).exp());
    assert!(whole.kl.value > 1e-6 && whole.top_agreement <= 1.0);
}

#[test]
fn windows_cover_the_text_once_and_begin_as_the_tokenizer_does() {
    let folder = model("llama3-rope");
    for (prefix, predicted) in [(vec![], 9), (vec![1], 10)] {
        change_tokenizer(folder.path(), |tokenizer| start_with(&prefix, tokenizer));
        let subject = open(folder.path(), None);
        let cut = windows(&subject, 16, usize::MAX);
        let mut read = Vec::new();
        for window in cut.iter() {
            assert!(window.len() <= 16 && window.starts_with(&prefix), "{window:?}");
            read.extend_from_slice(&window[prefix.len()..]);
        }
        assert_eq!(read, subject.tokenizer().encode_plain(TEXT).unwrap());
        assert_eq!((cut.longest(), windows(&subject, 16, 10).predicted()), (16, predicted));
    }
    let subject = open(folder.path(), None);
    let of = |text: &str, length| Windows::of(text, subject.tokenizer(), Cut { length, most: 99 });
    for (text, length) in [("", 16), (TEXT, 1)] {
        assert!(of(text, length).is_err(), "{text:?} {length}");
    }
}

#[test]
fn models_of_other_vocabularies_are_refused_and_so_are_windows_that_do_not_fit() {
    let folder = model("llama3-rope");
    let mut source = open(folder.path(), None);
    let windows = windows(&source, 16, 16);
    let strange = model("llama3-rope");
    change_tokenizer(strange.path(), |tokenizer| {
        let words = &mut tokenizer["model"]["vocab"];
        (words[">"], words["?"]) = (json!(66), json!(65));
    });
    let error = compare(&mut source, &mut open(strange.path(), None), &windows, |_| ()).unwrap_err();
    assert!(error.to_string().contains("token 65"), "{error}");
    let error = try_open(folder.path(), None, 1 << 30).err().unwrap().to_string();
    assert!(error.contains("its longest sequence"), "{error}");
}
