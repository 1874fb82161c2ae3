//! Real chat templates against what transformers makes of them (fixtures/chat/make.py); `ROOTSTOCK_TEMPLATES` names
//! another folder of templates with expectations made by the same script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rootstock_model::text::{ChatTemplate, Markers};
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn markers() -> Markers {
    Markers {
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
        others: vec![("unk_token".to_owned(), "<unk>".to_owned())],
    }
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, String> {
    let mut extra: Map<String, Value> = case["extra"].as_object().cloned().unwrap_or_default();
    for name in ["tools", "documents"] {
        extra.extend(case.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    let prompt = case["add_generation_prompt"] != json!(false);
    let messages = case["messages"].as_array().unwrap();
    template
        .render(messages, prompt, &extra)
        .map_err(|error| error.to_string())
}

/// `text` with today's date for every `⟦format⟧`.
fn dated(text: &str) -> String {
    let mut pieces = text.split('⟦');
    let mut dated = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (format, rest) = piece.split_once('⟧').unwrap();
        let date = ChatTemplate::new("{{ strftime_now(format) }}", Markers::default()).unwrap();
        let extra = Map::from_iter([("format".to_owned(), json!(format))]);
        dated.push_str(&date.render(&[], false, &extra).unwrap());
        dated.push_str(rest);
    }
    dated
}

/// What differs from the expectation, if anything does.
fn difference(template: &ChatTemplate, case: &Value, expected: &Value) -> Option<String> {
    let rendered = render(template, case);
    match (expected["text"].as_str(), &rendered) {
        (Some(text), Ok(rendered)) if dated(text) == *rendered => None,
        (Some(text), rendered) => Some(format!("expected {text:?}\n     got {rendered:?}")),
        (None, Ok(rendered)) => Some(format!("expected {}\n     got {rendered:?}", expected["refused"])),
        (None, Err(_)) => None,
    }
}

#[test]
fn real_templates_render_as_in_transformers() {
    let folder = std::env::var_os("ROOTSTOCK_TEMPLATES").map_or_else(fixtures, PathBuf::from);
    let cases: BTreeMap<String, Value> = serde_json::from_value(read(&fixtures().join("cases.json"))).unwrap();
    let mut templates = 0;
    let mut wrong = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "jinja"))
    {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected = read(&folder.join(format!("expected/{name}.json")));
        let source = std::fs::read_to_string(path).unwrap();
        templates += 1;
        let template = match ChatTemplate::new(&source, markers()) {
            Ok(template) => template,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (title, case) in &cases {
            let different = difference(&template, case, &expected[title]);
            wrong.extend(different.map(|different| format!("{name}, {title}: {different}")));
        }
    }
    assert!(templates > 15, "{templates} templates");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
