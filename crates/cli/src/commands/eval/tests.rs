//! Which rows allow which measures, and what answers make of them; without a model.

use clap::Parser;
use rootstock_train::metrics::Likelihood;

use super::asking::Answer;
use super::report::{Report, Row};
use super::*;
use crate::UsageError;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: EvalArgs,
}

/// Rows in a file, and the settings that further flags make over them.
struct Case {
    _dir: tempfile::TempDir,
    settings: EvalSettings,
}

fn case(name: &str, rows: &str, flags: &[&str]) -> Result<Case> {
    let dir = tempfile::tempdir()?;
    let (data, model) = (dir.path().join(name), dir.path().join("small.gguf"));
    std::fs::write(&data, rows)?;
    std::fs::write(&model, "")?;
    let paths = [
        "eval",
        "--model",
        model.to_str().unwrap(),
        "--data-name",
        data.to_str().unwrap(),
    ];
    let args = Line::try_parse_from([&paths, flags].concat())?.args;
    Ok(Case {
        settings: EvalSettings::new(&args)?,
        _dir: dir,
    })
}

fn examples(name: &str, rows: &str, flags: &[&str]) -> Result<Examples> {
    Examples::read(&case(name, rows, flags)?.settings)
}

fn names(examples: &Examples) -> Vec<&str> {
    examples.measures.iter().map(|measure| measure.name()).collect()
}

const MAILS: &str = "prompt,completion\na, spam\nb, ham\nc,ham\nd, spam\n";
const ANSWERS: &str = "prompt,completion\na,one\nb,two\nc,three\n";

#[test]
fn rows_decide_what_is_measured_where_nothing_is_asked_for() {
    let mails = examples("mails.csv", MAILS, &[]).unwrap();
    assert_eq!(names(&mails), ["perplexity", "accuracy", "macro-f1", "micro-f1"]);
    let labels = mails.labels.unwrap();
    assert_eq!(
        (labels.texts, labels.expected),
        (vec![" ham".to_owned(), " spam".to_owned()], vec![1, 0, 0, 1])
    );
    let answers = examples("answers.csv", ANSWERS, &[]).unwrap();
    assert_eq!(names(&answers), ["perplexity"]);
    assert!(answers.labels.is_none());
}

#[test]
fn what_is_asked_for_or_bounded_is_measured_in_the_order_of_the_table() {
    let flags = [
        "--metrics",
        "rouge,f1",
        "--fail-below",
        "bleu=10",
        "--fail-above",
        "perplexity=60",
    ];
    let mails = examples("mails.csv", MAILS, &flags).unwrap();
    let expected = [
        "perplexity",
        "macro-f1",
        "micro-f1",
        "bleu",
        "rouge-1",
        "rouge-2",
        "rouge-l",
    ];
    assert_eq!(names(&mails), expected);
    let only = examples(
        "mails.csv",
        MAILS,
        &["--metrics", "exact-match", "--eval-split", "train[1:3]"],
    )
    .unwrap();
    assert_eq!((names(&only), only.list.len()), (vec!["exact-match"], 2));
    assert!(only.labels.is_none());
}

#[test]
fn labels_that_are_given_keep_their_order_and_may_be_more_than_the_rows_have() {
    let mails = examples("mails.csv", MAILS, &["--labels", "spam,eggs, ham"]).unwrap();
    let labels = mails.labels.unwrap();
    assert_eq!(labels.texts, ["spam", "eggs", " ham"]);
    assert_eq!(labels.expected, [0, 2, 2, 0]);
}

#[test]
fn what_cannot_be_measured_on_the_rows_is_refused_with_the_reason() {
    let talk = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let cases: &[(&str, &str, &[&str], &str)] = &[
        (
            "a.csv",
            ANSWERS,
            &["--metrics", "accuracy"],
            "3 of 3 differ; give the labels with --labels",
        ),
        (
            "a.csv",
            MAILS,
            &["--labels", "spam,eggs"],
            "a.csv:3: expected one of the labels",
        ),
        (
            "a.txt",
            "text",
            &["--metrics", "accuracy"],
            "got conversations or plain text",
        ),
        (
            "a.txt",
            "text",
            &["--metrics", "rouge"],
            "rouge-1: the rows are plain text",
        ),
        ("a.jsonl", talk, &["--labels", "a,b"], "got conversations or plain text"),
        (
            "a.csv",
            "mail,verdict\na,b\n",
            &[],
            "a.csv:2: expected columns of one of",
        ),
        ("a.csv", MAILS, &["--text-template", "{mail}"], "names column \"mail\""),
        ("a.csv", MAILS, &["--eval-split", "train[9:]"], "has none of its 4 rows"),
        ("a.csv", MAILS, &["--eval-split", "test"], "expected a split \"test\""),
    ];
    for (name, rows, flags, expected) in cases {
        let error = examples(name, rows, flags).err().unwrap().to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
}

#[test]
fn settings_without_sense_are_refused_before_anything_is_loaded() {
    let cases: &[(&[&str], &str)] = &[
        (&["--adapters-only"], "there is no --adapter"),
        (&["--fail-below", "perplexity=60"], "use --fail-above perplexity=60"),
        (&["--fail-above", "accuracy=0.9"], "use --fail-below accuracy=0.9"),
        (
            &["--fail-below", "f1=0.9"],
            "expected one of perplexity, accuracy, macro-f1",
        ),
        (&["--fail-below", "accuracy"], "expected METRIC=VALUE"),
        (&["--fail-below", "accuracy=high"], "expected METRIC=NUMBER"),
        (&["--labels", "spam"], "expected two labels at least"),
        (&["--labels", "spam, spam"], "two of them are the same"),
        (&["--labels", "spam,,ham"], "one of them is empty"),
        (&["--max-length", "1"], "--max-length: expected 2 to"),
        (&["--text-template", "plain"], "--text-template: "),
        (&["--adapter", "nowhere"], "there is no folder or GGUF file nowhere"),
    ];
    for (flags, expected) in cases {
        let error = case("mails.csv", MAILS, flags).err().unwrap();
        assert!(error.is::<UsageError>() || error.is::<clap::Error>());
        let error = error.to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
}

#[test]
fn models_and_adapters_of_one_name_are_told_apart_by_how_they_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path).to_str().unwrap().to_owned();
    for path in ["a/m.gguf", "b/m.gguf", "c/n.gguf"] {
        std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(path), "").unwrap();
    }
    let models = ["a/m.gguf", "b/m.gguf", "c/n.gguf"].map(at);
    let flags: Vec<&str> = models.iter().flat_map(|model| ["--model", model]).collect();
    let line = [&["eval", "--data-name", &models[0]], flags.as_slice()].concat();
    let settings = EvalSettings::new(&Line::try_parse_from(line).unwrap().args).unwrap();
    let names: Vec<_> = settings.models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, [models[0].as_str(), models[1].as_str(), "n"]);
}

/// Labels' log-probabilities, ham first.
fn answer(ham: f64, spam: f64) -> Answer {
    Answer {
        likelihood: Likelihood {
            logprob: -2.0,
            tokens: 2,
        },
        labels: vec![ham, spam],
        ..Answer::default()
    }
}

fn report(flags: &[&str], model: &str, adapter: Option<&str>, answers: &[Answer]) -> Report {
    let case = case("mails.csv", MAILS, flags).unwrap();
    let examples = Examples::read(&case.settings).unwrap();
    let row = Row::new(model, adapter, &examples, answers.iter());
    Report::new(&case.settings, &examples, vec![row])
}

#[test]
fn the_likeliest_label_is_the_answer_and_of_equals_the_first() {
    let answers = [
        answer(-9.0, -1.0),
        answer(-1.0, -9.0),
        answer(-3.0, -3.0),
        answer(-1.0, -2.0),
    ];
    let report = report(&[], "small", None, &answers);
    let row = &report.json()["models"][0];
    assert_eq!(row["metrics"]["accuracy"], 0.75);
    assert_eq!(row["tokens"], 8);
    let perplexity = row["metrics"]["perplexity"].as_f64().unwrap();
    assert!((perplexity - 1f64.exp()).abs() < 1e-12, "{perplexity}");
    assert_eq!(
        report.table(),
        "model  perplexity  accuracy  macro-f1  micro-f1\n\
         small       2.718    0.7500    0.7333    0.7500\n"
    );
}

#[test]
fn generations_are_compared_with_the_completion_and_labels_with_none() {
    let texts = ["spam", " ham.", "ham ", "eggs"];
    let answers = texts.map(|text| Answer {
        text: Some(text.to_owned()),
        ..Answer::default()
    });
    let report = report(&["--metrics", "exact-match,rouge"], "small", Some("filter"), &answers);
    let json = report.json();
    let metrics = &json["models"][0]["metrics"];
    assert_eq!(
        (&metrics["exact-match"], &metrics["rouge-1"]),
        (&0.5.into(), &0.75.into())
    );
    assert_eq!(json["models"][0]["name"], "small + filter");
    assert_eq!(json.get("labels"), None);
}

#[test]
fn rouge_compares_stems_where_that_is_asked_for() {
    let answers = ["spamming", "hams", "ham", "spam"].map(|text| Answer {
        text: Some(text.to_owned()),
        ..Answer::default()
    });
    let rouge =
        |flags: &[&str]| report(flags, "small", None, &answers).json()["models"][0]["metrics"]["rouge-1"].as_f64();
    assert_eq!(rouge(&["--metrics", "rouge"]), Some(0.5));
    assert_eq!(rouge(&["--metrics", "rouge", "--use-stemmer"]), Some(1.0));
}

#[test]
fn a_bound_that_is_not_kept_says_of_whom_and_by_how_much() {
    let answers = [
        answer(-9.0, -1.0),
        answer(-1.0, -9.0),
        answer(-3.0, -4.0),
        answer(-1.0, -2.0),
    ];
    let flags = [
        "--fail-below",
        "accuracy=0.95,macro-f1=0.5",
        "--fail-above",
        "perplexity=2.5",
    ];
    let report = report(&flags, "small", None, &answers);
    let error = report.verdict().unwrap_err().to_string();
    assert!(
        error.contains("accuracy of small is 0.7500, 0.2000 below 0.95"),
        "{error}"
    );
    assert!(
        error.contains("perplexity of small is 2.718, 0.218 above 2.5"),
        "{error}"
    );
    assert!(!error.contains("macro-f1"), "{error}");
    assert_eq!(report.json()["failures"].as_array().unwrap().len(), 2);
}

#[test]
fn beside_adapters_a_base_need_not_keep_their_bounds() {
    let adapter = std::env::temp_dir();
    let flags = ["--adapter", adapter.to_str().unwrap(), "--fail-below", "accuracy=0.95"];
    let wrong = [
        answer(-1.0, -9.0),
        answer(-9.0, -1.0),
        answer(-9.0, -1.0),
        answer(-1.0, -9.0),
    ];
    assert!(report(&flags, "small", None, &wrong).verdict().is_ok());
    let error = report(&flags, "small", Some("filter"), &wrong).verdict().unwrap_err();
    assert!(
        error.to_string().contains("accuracy of small + filter is 0.0000"),
        "{error}"
    );
}

#[test]
fn the_report_of_a_file_replaces_an_older_one_or_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    std::fs::write(&path, "old").unwrap();
    write(&path, &serde_json::json!({"a": 1})).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
    let error = write(&dir.path().join("nowhere/report.json"), &Value::Null).unwrap_err();
    assert!(error.to_string().contains("--out: "), "{error}");
}
