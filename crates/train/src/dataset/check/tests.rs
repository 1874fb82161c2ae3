//! Every fault is found where it is, and nothing is found in data without faults.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::TrainError;
use crate::dataset::letters::{BOS, encoder};
use crate::dataset::{Place, Row, Shape};

fn place(line: usize) -> Place {
    Place {
        file: "a.jsonl".into(),
        line,
    }
}

fn rows(values: Vec<Value>) -> Vec<Result<Row, TrainError>> {
    let row = |(index, value)| match value {
        Value::Object(fields) => Ok(Row {
            fields,
            place: place(index + 1),
        }),
        _ => Err(place(index + 1).error("expected an object")),
    };
    values.into_iter().enumerate().map(row).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<Result<Row, TrainError>> {
    let row = |(prompt, completion): &(&str, &str)| json!({"prompt": prompt, "completion": completion});
    rows(pairs.iter().map(row).collect())
}

/// A survey of rows of pairs in samples of 12 tokens; lines count from 1 on both sides.
fn survey(train: &[(&str, &str)], eval: &[(&str, &str)]) -> Survey {
    let mut survey = Survey::default();
    let encoder = Arc::new(encoder(Some(BOS), 12));
    survey.add_train(pairs(train), &Shape::PromptCompletion, &encoder, 2);
    survey.add_eval(pairs(eval), &Shape::PromptCompletion, &encoder, 2);
    survey
}

/// Fault, line and detail of every finding.
fn findings(survey: &Survey) -> Vec<(Fault, usize, String)> {
    let findings = Report::of(survey).findings.into_iter();
    findings
        .map(|found| (found.fault, found.place.map_or(0, |place| place.line), found.detail))
        .collect()
}

fn lines(survey: &Survey) -> Vec<(Fault, usize)> {
    findings(survey)
        .into_iter()
        .map(|(fault, line, _)| (fault, line))
        .collect()
}

#[test]
fn nothing_is_found_in_data_without_faults() {
    let survey = survey(
        &[("one", " a"), ("two", " b"), ("three", " a"), ("four", " b")],
        &[("six", " a"), ("ten", " b")],
    );
    assert_eq!(lines(&survey), []);
    let report = Report::of(&survey);
    assert_eq!((report.train, report.eval, report.unreadable), (4, 2, 0));
    let counts: Vec<_> = report
        .labels
        .iter()
        .map(|l| (l.label.as_str(), l.train, l.eval))
        .collect();
    assert_eq!(counts, [("a", 2, 1), ("b", 2, 1)]);
}

#[test]
fn rows_that_cannot_be_used_are_errors_with_their_reason() {
    let mut survey = Survey::default();
    let encoder = Arc::new(encoder(None, 12));
    let talk = json!({"text": "ok", "messages": []});
    survey.add_train(
        rows(vec![talk, json!([]), json!({"prompt": "a"})]),
        &Shape::Text,
        &encoder,
        1,
    );
    let expected = [
        (Fault::Unreadable, 2, "expected an object".to_owned()),
        (
            Fault::Unreadable,
            3,
            "expected a column \"text\", found none".to_owned(),
        ),
    ];
    assert_eq!(findings(&survey), expected);
    assert_eq!(Report::of(&survey).count(Severity::Error), 2);
}

#[test]
fn what_is_evaluated_must_not_be_trained_on_even_nearly() {
    let survey = survey(
        &[("a b", " one"), ("three", " two")],
        &[("four", " x"), ("a b", " one"), ("A, b.", " ONE")],
    );
    let found = findings(&survey);
    let [(Fault::Leakage, 2, exact), (Fault::Leakage, 3, near)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(exact, "the same as a.jsonl:1, which is trained on");
    assert_eq!(near, "nearly the same as a.jsonl:1, which is trained on");
}

#[test]
fn twins_on_one_side_are_warnings() {
    let train = [
        ("one", " x"),
        ("two", " y"),
        ("one", " x"),
        ("ONE!", " x"),
        ("!!", " y"),
        ("??", " y"),
    ];
    let survey = survey(&train, &[]);
    assert_eq!(lines(&survey)[..2], [(Fault::Duplicate, 3), (Fault::NearDuplicate, 4)]);
    assert_eq!(Report::of(&survey).count(Severity::Error), 0);
}

#[test]
fn labels_that_contradict_each_other_are_found_but_different_answers_are_not() {
    let labels = [("one", " a"), ("two", " b"), ("one", " b"), ("three", " a")];
    let (fault, line, detail) = findings(&survey(&labels, &[])).remove(0);
    assert_eq!((fault, line), (Fault::Contradiction, 3));
    assert_eq!(detail, "its prompt has the label \"b\" here and \"a\" in a.jsonl:1");
    let answers = [("one", " a"), ("one", " b"), ("one", " c")];
    assert_eq!(lines(&survey(&answers, &[])), []);
}

#[test]
fn what_a_row_by_itself_shows_is_found() {
    let train = [
        ("", " a"),
        ("one", "  "),
        ("a long prompt", " yes"),
        ("one", " a very long answer"),
        ("one ", "two"),
    ];
    let found = findings(&survey(&train, &[]));
    let expected = [
        (Fault::Empty, 1, "expected text, found none in its prompt"),
        (Fault::Empty, 2, "expected text, found none in its completion"),
        (
            Fault::Truncated,
            3,
            "7 of 19 tokens are cut from the beginning of the prompt",
        ),
        (
            Fault::Truncated,
            4,
            "of 24 tokens 3 are cut from the beginning of the prompt and 9 from the end",
        ),
    ];
    let expected = expected.map(|(fault, line, detail)| (fault, line, detail.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn a_row_without_an_end_or_without_anything_learned_is_found() {
    let mut survey = survey(&[("one", " a"), ("two", " b")], &[]);
    survey.train[0].encoded.ends = false;
    let ids = survey.train[1].encoded.sample.ids.clone();
    survey.train[1].encoded.sample = crate::dataset::Sample::new(ids, Vec::new());
    survey.train[1].encoded.continues = false;
    let expected = [
        (Fault::NothingLearned, 2),
        (Fault::NoEndToken, 1),
        (Fault::PromptEnd, 2),
    ];
    assert_eq!(lines(&survey), expected);
}

#[test]
fn labels_that_are_rare_missing_or_alone_are_found() {
    let mut train: Vec<_> = ["q"; 30].map(|prompt| (prompt, " a")).to_vec();
    train.extend([
        ("one", " b"),
        ("two", " b"),
        ("three", " c"),
        ("four", " c"),
        ("five", " c"),
    ]);
    let of_labels = |survey: &Survey| {
        let found = findings(survey)
            .into_iter()
            .filter(|(fault, ..)| *fault == Fault::LabelBalance);
        found.map(|(.., detail)| detail).collect::<Vec<_>>()
    };
    let expected = [
        "label \"b\" has 2 rows to train on, the most frequent one 30",
        "label \"c\" is not evaluated",
        "label \"d\" is evaluated (1 rows), but none is trained on",
    ];
    assert_eq!(
        of_labels(&survey(&train, &[("x", " a"), ("y", " d"), ("z", " b")])),
        expected
    );
    assert_eq!(of_labels(&survey(&train[..5], &[])), ["every row has the label \"a\""]);
}

#[test]
fn a_held_out_share_is_that_of_a_run() {
    let words = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    ];
    let train: Vec<_> = words
        .iter()
        .enumerate()
        .map(|(index, &word)| (word, [" a", " b"][index % 2]))
        .collect();
    let mut survey = survey(&train, &[]);
    let examples: Vec<_> = survey.train.iter().map(|row| row.example.clone()).collect();
    let split = crate::dataset::hold_out(&examples, 0.4, 3);
    survey.hold_out(0.4, 3);
    let lines = |rows: &[Checked]| rows.iter().map(|row| row.place.line - 1).collect::<Vec<_>>();
    assert_eq!(
        (lines(&survey.train), lines(&survey.eval)),
        (split.train, split.held_out)
    );
}

#[test]
fn lengths_are_counted_before_anything_is_cut() {
    // A text of n letters is one token before it and one behind it.
    let texts = ["", "a", "ab", "abcdefgh", &"a".repeat(40)].map(|text| json!({"text": text}));
    let mut survey = Survey::default();
    survey.add_train(rows(texts.to_vec()), &Shape::Text, &Arc::new(encoder(Some(BOS), 12)), 1);
    let lengths = Report::of(&survey).lengths;
    assert_eq!(
        (lengths.tokens, lengths.median, lengths.p90, lengths.longest),
        (2 + 3 + 4 + 10 + 42, 4, 42, 42)
    );
    assert_eq!(lengths.learned, 1 + 2 + 3 + 9 + 11);
    let buckets: Vec<_> = lengths.histogram.iter().map(|b| (b.from, b.to, b.rows)).collect();
    assert_eq!(
        buckets,
        [(2, 2, 1), (3, 4, 2), (5, 8, 0), (9, 16, 1), (17, 32, 0), (33, 64, 1)]
    );
    assert_eq!(Report::of(&Survey::default()).lengths, Lengths::default());
}

#[test]
fn a_report_as_json_names_rows_and_faults() {
    let report = serde_json::to_value(Report::of(&survey(&[("one", " x")], &[("one", " x")]))).unwrap();
    let expected = json!({
        "severity": "error",
        "fault": "leakage",
        "place": {"file": "a.jsonl", "line": 1},
        "detail": "the same as a.jsonl:1, which is trained on",
    });
    assert_eq!(report["findings"][0], expected);
    for fault in [
        Fault::Unreadable,
        Fault::NoEndToken,
        Fault::PromptEnd,
        Fault::LabelBalance,
        Fault::NearDuplicate,
    ] {
        assert_eq!(json!(fault), json!(fault.name()));
    }
    let label = json!({"label": "x", "train": 1, "eval": 1});
    assert_eq!((&report["train"], &report["labels"][0]), (&json!(1), &label));
}
