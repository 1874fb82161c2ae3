//! Readers of data files against files that real libraries wrote, and against files that are damaged: they are read or refused.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use rootstock_train::dataset::{Example, Shape, Slice, TextTemplate, read};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/parquet")
        .join(name)
}

#[test]
fn parquet_has_the_values_that_pyarrow_wrote() {
    for name in ["flat-snappy.parquet", "flat-gzip.parquet"] {
        let rows = read(&fixture(name)).unwrap();
        assert_eq!(rows.len(), 7, "{name}");
        let expected = json!({
            "prompt": "question 5 é",
            "completion": "spam",
            "number": 5,
            "score": 2.5,
            "missing": null,
            "bytes": {"bytes": 2},
        });
        assert_eq!(Value::Object(rows[5].fields.clone()), expected, "{name}");
        assert_eq!(rows[5].place.line, 6, "{name}");
    }
}

#[test]
fn parquet_conversations_are_lists_of_turns() {
    let rows = read(&fixture("talk-zstd.parquet")).unwrap();
    let turns = |row: usize| match Shape::of(&rows[row]).unwrap().read(&rows[row]).unwrap() {
        Example::Conversation(messages) => messages.into_iter().map(|m| (m.role, m.content)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let turn = |role: &str, content: &str| (role.to_owned(), content.to_owned());
    assert_eq!(turns(6), [turn("user", "hi 6")]);
    assert_eq!(turns(5), [turn("user", "hi 5"), turn("assistant", "yes")]);
}

#[test]
fn parquet_that_cannot_be_read_is_named_with_the_reason() {
    let error = read(&fixture("flat-brotli.parquet")).unwrap_err().to_string();
    assert!(
        error.contains("flat-brotli.parquet:1: expected Parquet compressed with snappy, gzip or zstd"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let whole = std::fs::read(fixture("flat-snappy.parquet")).unwrap();
    for (bytes, expected) in [
        (&b"{}"[..], "expected Parquet"),
        (&whole[..whole.len() - 9], "expected Parquet"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("a.parquet:1: ") && error.contains(expected), "{error}");
    }
}

/// Files of every kind, whole.
static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let rows = r#"{"prompt": "a\u00e9", "completion": "b", "n": [1, {"x": null}]}"#;
    let mut files = vec![
        ("a.jsonl".to_owned(), format!("{rows}\n{rows}\n\n{rows}").into_bytes()),
        ("a.json".to_owned(), format!("[{rows},\n{rows}]").into_bytes()),
        ("a.csv".to_owned(), b"input,output\n\"x, \"\"y\"\"\",z\n1,2\n".to_vec()),
        ("a.txt".to_owned(), "Call me \u{e9}".to_owned().into_bytes()),
    ];
    for name in ["flat-snappy.parquet", "flat-gzip.parquet", "talk-zstd.parquet"] {
        files.push((name.to_owned(), std::fs::read(fixture(name)).unwrap()));
    }
    files
});

/// Reads a file with this content as a data set is read, and gives the number of its rows.
fn examples(name: &str, bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let rows = read(&path).map_err(|error| error.to_string())?;
    let shape = Shape::of(&rows[0]).map_err(|error| error.to_string())?;
    for row in &rows {
        if let Err(error) = shape.read(row) {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    Ok(rows.len())
}

#[test]
fn whole_files_are_read() {
    for ((name, bytes), expected) in FILES.iter().zip([3, 2, 2, 1, 7, 7, 7]) {
        assert_eq!(examples(name, bytes), Ok(expected), "{name}");
    }
}

proptest! {
    #[test]
    fn damaged_files_are_read_or_refused_with_their_name(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        for (name, bytes) in FILES.iter() {
            let mut bytes = bytes.clone();
            for (at, byte) in &damage {
                *at.get_mut(&mut bytes) = *byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            match examples(name, &bytes) {
                Ok(rows) => prop_assert!(rows > 0),
                Err(error) => prop_assert!(error.contains(name.as_str()), "{}", error),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (name, _) in FILES.iter() {
            if let Err(error) = examples(name, &bytes) {
                prop_assert!(error.contains(name.as_str()), "{}", error);
            }
        }
    }

    #[test]
    fn any_slice_is_parsed_or_refused(text in "\\PC{0,12}|(train)?\\[?-?[0-9]{0,30}%?:?-?[0-9]{0,30}%?\\]?", rows in 0usize..100) {
        if let Ok(range) = text.parse::<Slice>().and_then(|slice| slice.of(rows)) {
            prop_assert!(range.start < range.end && range.end <= rows);
        }
    }

    #[test]
    fn any_template_is_parsed_or_refused(text in "[a{}é]{0,12}|\\PC{0,30}") {
        if let Err(error) = TextTemplate::parse(&text) {
            prop_assert!(error.to_string().contains("text template"), "{}", error);
        }
    }
}
