//! Files become examples, and what cannot become one is named by file and line.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{Example, Message, Shape, Slice, TextTemplate, hold_out, labels, load_each, read};
use crate::TrainError;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn examples(name: &str, content: &str) -> Result<Vec<Example>, TrainError> {
    let folder = Folder::new();
    let rows = read(&folder.file(name, content))?;
    let shape = Shape::of(&rows[0])?;
    rows.iter().map(|row| shape.read(row)).collect()
}

fn completion(prompt: &str, completion: &str) -> Example {
    Example::Completion {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    }
}

#[test]
fn every_kind_of_file_and_every_shape_become_examples() {
    let pair = r#"{"prompt": "a", "completion": "b"}"#;
    let turns = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}"#;
    let shared = r#"[{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}]"#;
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let talk = Example::Conversation(vec![message("user", "hi"), message("assistant", "yes")]);
    let cases = [
        ("a.jsonl", format!("{pair}\n\n{pair}\n"), vec![completion("a", "b"); 2]),
        ("a.json", format!("[{pair}]"), vec![completion("a", "b")]),
        ("lines.json", format!("{pair}\n{pair}"), vec![completion("a", "b"); 2]),
        (
            "a.csv",
            "input,output\n\"x, y\",z\n".to_owned(),
            vec![completion("x, y", "z")],
        ),
        ("talk.jsonl", turns.to_owned(), vec![talk.clone()]),
        ("shared.json", shared.to_owned(), vec![talk]),
        (
            "book.txt",
            "Call me".to_owned(),
            vec![Example::Text("Call me".to_owned())],
        ),
    ];
    for (name, content, expected) in cases {
        assert_eq!(examples(name, &content).unwrap(), expected, "{name}");
    }
}

#[test]
fn alpacas_prompt_has_an_input_only_where_there_is_one() {
    let rows = r#"[{"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Sing", "input": "", "output": "la"}]"#;
    let got = examples("a.json", rows).unwrap();
    let prompt = |index: usize| match &got[index] {
        Example::Completion { prompt, .. } => prompt.as_str(),
        other => panic!("{other:?}"),
    };
    assert!(prompt(0).contains("### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n"));
    assert!(prompt(1).ends_with("### Instruction:\nSing\n\n### Response:\n") && !prompt(1).contains("### Input"));
}

#[test]
fn a_folder_gives_its_files_in_order_of_name() {
    let folder = Folder::new();
    folder.file("b.txt", "second");
    folder.file("a.txt", "first");
    folder.file("ignored.bin", "");
    let rows = read(folder.0.path()).unwrap();
    let texts: Vec<_> = rows.iter().map(|row| row.fields["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["first", "second"]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let rows = r#"{"prompt": "a", "completion": "b"}"#;
    for (name, content) in [
        ("a.json", format!("[{rows}]")),
        ("a.jsonl", rows.to_owned()),
        ("a.csv", "prompt,completion\na,b".to_owned()),
    ] {
        let examples = examples(name, &format!("\u{FEFF}{content}")).unwrap();
        assert_eq!(examples, [completion("a", "b")], "{name}");
    }
}

#[test]
fn reading_each_row_goes_on_behind_one_that_is_wrong() {
    let folder = Folder::new();
    let good = r#"{"text": "a"}"#;
    for (name, content) in [
        ("a.jsonl", format!("{good}\n{{\n{good}")),
        ("a.csv", "text,n\na,1\na\na,2".to_owned()),
    ] {
        let rows = load_each(&folder.file(name, &content), &"train".parse().unwrap()).unwrap();
        let read: Vec<_> = rows.iter().map(Result::is_ok).collect();
        assert_eq!(read, [true, false, true], "{name}");
    }
}

#[test]
fn what_is_wrong_is_named_by_file_and_line() {
    let good = r#"{"prompt": "a", "completion": "b"}"#;
    let cases = [
        (
            "a.jsonl",
            format!("{good}\n{{\"prompt\": \n"),
            "a.jsonl:2: expected JSON",
        ),
        (
            "a.jsonl",
            format!("{good}\n[1]\n"),
            "a.jsonl:2: expected an object of named fields, got an array",
        ),
        (
            "a.jsonl",
            format!("{good}\n{{\"prompt\": \"a\"}}"),
            "a.jsonl:2: expected a column \"completion\"",
        ),
        (
            "a.jsonl",
            r#"{"prompt": 1, "completion": "b"}"#.to_owned(),
            "a.jsonl:1: expected text in column \"prompt\", got a number",
        ),
        ("a.jsonl", r#"{"question": "a"}"#.to_owned(), "{prompt, completion}"),
        (
            "a.jsonl",
            r#"{"messages": []}"#.to_owned(),
            "expected turns, found none",
        ),
        (
            "a.jsonl",
            r#"{"messages": [{"role": "user"}]}"#.to_owned(),
            "turn 1: expected text in \"content\", got none",
        ),
        ("a.csv", "input,output\n1,2\n1,2,3\n".to_owned(), "a.csv:3:"),
        (
            "a.json",
            "[{\"a\": 1},\n 2".to_owned(),
            "a.json:2: expected an array of JSON objects",
        ),
        ("a.jsonl", "\n".to_owned(), "expected rows, found none"),
        ("a.exe", String::new(), "expected a file that ends in"),
    ];
    for (name, content, expected) in cases {
        let error = examples(name, &content).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
    assert!(matches!(read("/nowhere/a.json".as_ref()), Err(TrainError::Io { .. })));
}

#[test]
fn a_template_takes_any_columns_and_names_those_that_are_missing() {
    let folder = Folder::new();
    let rows = read(&folder.file("a.jsonl", r#"{"q": "2+2", "n": 4, "list": []}"#)).unwrap();
    let render = |template: &str| TextTemplate::parse(template)?.render(&rows[0]);
    assert_eq!(render("{{{q}}} is {n}\n").unwrap(), "{2+2} is 4\n");
    for (template, expected) in [
        ("{missing}", "names column \"missing\"; this row has q, n, list"),
        ("{list}", "expected text in column \"list\", got an array"),
        ("plain", "expected a column in braces"),
        ("{q", "expected a column's name and }"),
        ("q}", "expected { before }"),
        ("{}", "expected a column's name"),
    ] {
        let error = render(template).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains(expected) || template == "{q",
            "{error:?} for {expected:?}"
        );
    }
}

#[test]
fn a_typed_template_has_escapes() {
    let folder = Folder::new();
    let rows = read(&folder.file("a.jsonl", r#"{"q": "x"}"#)).unwrap();
    let render = |template: &str| TextTemplate::typed(template).unwrap().render(&rows[0]).unwrap();
    assert_eq!(render(r"a\nb\t{q}"), "a\nb\tx");
    assert_eq!(render(r"\\n{q}\q\"), "\\nx\\q\\");
}

#[test]
fn slices_are_those_of_hugging_faces_datasets() {
    let of = |text: &str, rows: usize| text.parse::<Slice>().and_then(|slice| slice.of(rows));
    for (text, expected) in [
        ("train", 0..1000),
        ("train[:4096]", 0..1000),
        ("train[:100]", 0..100),
        ("train[100:]", 100..1000),
        ("train[-10:]", 990..1000),
        ("train[:10%]", 0..100),
        ("train[10%:20%]", 100..200),
        ("train[-5%:]", 950..1000),
    ] {
        assert_eq!(of(text, 1000).unwrap(), expected, "{text}");
    }
    assert_eq!(
        "validation[4096:4224]".parse::<Slice>().unwrap().of(5000).unwrap(),
        4096..4224
    );
    for text in [
        "",
        "train[",
        "train[1]",
        "train[a:b]",
        "train[:200%]",
        "tr ain",
        "train[5:5]",
        "train[2000:]",
    ] {
        assert!(of(text, 1000).is_err(), "{text}");
    }
}

#[test]
fn a_tenth_of_every_label_is_held_out_and_always_the_same() {
    let label = |index: usize| if index % 10 == 3 { "spam" } else { " ham" };
    let examples: Vec<_> = (0..400)
        .map(|index| completion(&index.to_string(), label(index)))
        .collect();
    let split = hold_out(&examples, 0.1, 7);
    assert_eq!(split, hold_out(&examples, 0.1, 7));
    assert_ne!(split, hold_out(&examples, 0.1, 8));
    let spam = |indices: &[usize]| indices.iter().filter(|&&index| index % 10 == 3).count();
    assert_eq!((split.held_out.len(), spam(&split.held_out)), (40, 4));
    let mut all = [split.train, split.held_out].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..400));
}

#[test]
fn completions_that_repeat_are_labels_and_others_are_answers() {
    let of = |completions: &[&str]| {
        let examples = completions.iter().map(|text| completion("p", text));
        labels(&examples.collect::<Vec<_>>())
    };
    let expected = [" ham", "spam"].map(str::to_owned).to_vec();
    assert_eq!(of(&["spam", " ham", "ham", " spam"]), Some(expected));
    assert_eq!(of(&["spam", "ham", "eggs"]), None, "most are their own");
    assert_eq!(of(&["spam"; 4]), None, "one alone is no choice");
    assert_eq!(labels(&[Example::Text("a".to_owned())]), None);
}

#[test]
fn neither_side_of_a_split_is_empty() {
    for count in 2..30 {
        let texts: Vec<_> = (0..count).map(|index| Example::Text(index.to_string())).collect();
        for share in [0.01, 0.1, 0.5, 0.99] {
            let split = hold_out(&texts, share, 1);
            assert!(!split.train.is_empty() && !split.held_out.is_empty(), "{count} {share}");
        }
        assert!(hold_out(&texts, 0.0, 1).held_out.is_empty());
    }
}
