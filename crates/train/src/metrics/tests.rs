//! Values of the real packages (tests/fixtures/make_metrics.py wrote them), and what holds for every input.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// How words are compared, and what the fixtures call it.
const STEMMING: [(Words, &str); 2] = [(Words::Whole, "rouge"), (Words::Stemmed, "rouge_stemmed")];

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/metrics.json")).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

fn pair(value: &Value) -> (&str, &str) {
    (
        value["prediction"].as_str().unwrap(),
        value["reference"].as_str().unwrap(),
    )
}

fn bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    let mut bleu = Bleu::default();
    pairs.into_iter().for_each(|(p, r)| bleu.add(p, r));
    bleu.score()
}

fn rouge<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, words: Words) -> RougeScores {
    let mut rouge = Rouge::new(words);
    pairs.into_iter().for_each(|(p, r)| rouge.add(p, r));
    rouge.mean().unwrap()
}

#[track_caller]
fn assert_near(got: f64, expected: &Value, what: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() < 1e-9, "{got} for {expected}: {what}");
}

#[track_caller]
fn assert_rouge(got: RougeScores, expected: &Value, what: &Value) {
    for (got, index) in [(got.rouge_1, 0), (got.rouge_2, 1), (got.rouge_l, 2)] {
        assert_near(got, &expected[index], what);
    }
}

#[test]
fn tokens_are_those_of_mteval_v13a() {
    let golden = golden();
    assert!(list(&golden, "pairs").len() > 30);
    for value in list(&golden, "pairs") {
        let spaced = bleu::spaced(pair(value).0);
        assert_eq!(bleu::tokens(&spaced), list(value, "tokens_13a").to_vec(), "{value}");
    }
}

#[test]
fn bleu_of_awkward_texts_is_sacrebleus() {
    for value in list(&golden(), "pairs") {
        assert_near(bleu([pair(value)]), &value["bleu"], value);
    }
}

#[test]
fn rouge_of_awkward_texts_is_rouge_scores() {
    for value in list(&golden(), "pairs") {
        let (prediction, reference) = pair(value);
        for (words, name) in STEMMING {
            assert_rouge(RougeScores::of(prediction, reference, words), &value[name], value);
        }
    }
}

#[test]
fn corpora_score_as_in_the_real_packages() {
    let golden = golden();
    let pairs: Vec<_> = list(&golden, "pairs").iter().map(pair).collect();
    for corpus in list(&golden, "corpora") {
        let bound = |index: usize| corpus["range"][index].as_u64().unwrap() as usize;
        let part = &pairs[bound(0)..bound(1)];
        assert_near(bleu(part.iter().copied()), &corpus["bleu"], corpus);
        for (words, name) in STEMMING {
            assert_rouge(rouge(part.iter().copied(), words), &corpus[name], corpus);
        }
    }
}

#[test]
fn stems_are_nltks() {
    let golden = golden();
    assert!(list(&golden, "stems").len() > 400);
    for value in list(&golden, "stems") {
        let (word, stem) = (value[0].as_str().unwrap(), value[1].as_str().unwrap());
        assert_eq!(porter::stem(word), stem, "{word}");
    }
}

#[test]
fn accuracy_and_f1_are_scikit_learns() {
    for value in list(&golden(), "labels") {
        let index = |name: &str| -> Vec<usize> {
            let labels = list(value, name).iter().map(|label| label.as_str().unwrap());
            labels.map(|label| "abcdspamham".find(label).unwrap()).collect()
        };
        let mut confusion = Confusion::new(9);
        for (expected, predicted) in index("expected").into_iter().zip(index("predicted")) {
            confusion.add(expected, predicted);
        }
        assert_near(confusion.accuracy().unwrap(), &value["accuracy"], value);
        assert_near(confusion.macro_f1().unwrap(), &value["macro_f1"], value);
        assert_near(confusion.micro_f1().unwrap(), &value["micro_f1"], value);
    }
}

#[test]
fn perplexity_counts_tokens_and_not_texts() {
    let mut all = Likelihood::default();
    all.add([0.25f32.ln(); 3]);
    assert!((all.perplexity().unwrap() - 4.0).abs() < 1e-6);
    let mut sure = Likelihood::default();
    sure.add([0.0]);
    all.merge(sure);
    assert_eq!(all.tokens, 4);
    assert!((all.perplexity().unwrap() - 64f64.powf(0.25)).abs() < 1e-6);
    all.add([f32::NEG_INFINITY]);
    assert_eq!(all.perplexity(), Some(f64::INFINITY));
}

#[test]
fn nothing_measured_has_no_value() {
    assert_eq!(Likelihood::default().perplexity(), None);
    assert_eq!(Rouge::default().mean(), None);
    let nothing = Confusion::new(2);
    assert_eq!((nothing.accuracy(), nothing.macro_f1()), (None, None));
    assert_eq!(Bleu::default().score(), 0.0);
}

#[test]
fn an_exact_match_is_up_to_white_space_around_it() {
    assert!(exact_match(" spam", "spam\n") && exact_match("", " "));
    assert!(!exact_match("Spam", "spam") && !exact_match("a  b", "a b"));
}

/// Texts of few words, so that they share some.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof!["[ab]", "[a-c]{1,2}[.,!-]?", "[0-9]{1,2}", "\\PC"];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec((text(), text()), 1..6)
}

fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> + Clone {
    pairs.iter().map(|(p, r)| (p.as_str(), r.as_str()))
}

proptest! {
    #[test]
    fn scores_stay_in_their_range_whatever_the_order(pairs in pairs()) {
        let forward = bleu(borrowed(&pairs));
        prop_assert!((0.0..=100.0 + 1e-9).contains(&forward), "{forward}");
        let backward: Vec<_> = pairs.iter().rev().cloned().collect();
        prop_assert_eq!(forward, bleu(borrowed(&backward)));
        let scores = rouge(borrowed(&pairs), Words::Whole);
        for score in [scores.rouge_1, scores.rouge_2, scores.rouge_l] {
            prop_assert!((0.0..=1.0).contains(&score), "{score}");
        }
        prop_assert!(scores.rouge_l <= scores.rouge_1 + 1e-12);
    }

    #[test]
    fn rouge_is_the_same_both_ways_and_1_of_a_text_with_itself(a in text(), b in text()) {
        for words in [Words::Whole, Words::Stemmed] {
            prop_assert_eq!(RougeScores::of(&a, &b, words), RougeScores::of(&b, &a, words));
        }
        let itself = RougeScores::of(&a, &a, Words::Whole);
        let has_words = a.to_lowercase().contains(|c: char| c.is_ascii_alphanumeric());
        prop_assert_eq!(itself.rouge_1, f64::from(u8::from(has_words)));
        prop_assert_eq!(itself.rouge_l, itself.rouge_1);
    }

    #[test]
    fn a_stem_is_a_word_of_letters_and_no_longer_but_for_an_e(word in "[a-z0-9]{1,12}|y{1,40}(ing|ed|alli)?") {
        let stem = porter::stem(&word);
        prop_assert!(!stem.is_empty() && stem.len() <= word.len() + 1, "{stem}");
        prop_assert!(stem.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{stem}");
    }

    #[test]
    fn a_corpus_with_itself_has_a_bleu_of_100_once_it_has_four_tokens(texts in proptest::collection::vec(text(), 1..5)) {
        let long = texts.iter().any(|text| bleu::tokens(&bleu::spaced(text)).len() >= 4);
        let score = bleu(texts.iter().map(|text| (text.as_str(), text.as_str())));
        prop_assert!((score - if long { 100.0 } else { 0.0 }).abs() < 1e-9, "{score}");
    }

    #[test]
    fn f1_does_not_know_how_labels_are_numbered(answers in proptest::collection::vec((0usize..4, 0usize..4), 1..40)) {
        let confusion = |number: fn(usize) -> usize| {
            let mut confusion = Confusion::new(4);
            answers.iter().for_each(|&(expected, predicted)| confusion.add(number(expected), number(predicted)));
            confusion
        };
        let (one, other) = (confusion(|label| label), confusion(|label| 3 - label));
        prop_assert_eq!(one.accuracy(), other.accuracy());
        prop_assert!((one.macro_f1().unwrap() - other.macro_f1().unwrap()).abs() < 1e-12);
        let all_right = answers.iter().all(|(expected, predicted)| expected == predicted);
        prop_assert_eq!(one.macro_f1() == Some(1.0), all_right);
    }

    #[test]
    fn perplexity_is_at_least_1_and_does_not_depend_on_where_texts_end(
        logprobs in proptest::collection::vec(-20.0f32..=0.0, 1..50),
        cut in 0usize..50,
    ) {
        let mut whole = Likelihood::default();
        whole.add(logprobs.iter().copied());
        let (front, back) = logprobs.split_at(cut.min(logprobs.len()));
        let mut parts = Likelihood::default();
        for part in [front, back] {
            let mut sum = Likelihood::default();
            sum.add(part.iter().copied());
            parts.merge(sum);
        }
        let (whole, parts) = (whole.perplexity().unwrap(), parts.perplexity().unwrap());
        prop_assert!(whole >= 1.0 && (whole / parts - 1.0).abs() < 1e-9, "{whole} {parts}");
    }
}
