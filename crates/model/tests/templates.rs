//! Chat templates against what jinja2 makes of them, set up as transformers sets it up (fixtures/render.py).

use rootstock_model::text::{ChatTemplate, Markers};
use serde_json::{Map, Value};

fn render(case: &Value) -> Result<String, String> {
    let markers = Markers {
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
        ..Markers::default()
    };
    let template = ChatTemplate::new(case["template"].as_str().unwrap(), markers).map_err(|error| error.to_string())?;
    let (messages, extra) = (case["messages"].as_array().unwrap(), case["extra"].as_object().unwrap());
    template
        .render(messages, true, extra)
        .map_err(|error| error.to_string())
}

#[test]
fn templates_render_as_in_jinja2() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/templates.json")).unwrap();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        match case["expected"].as_str() {
            Some(expected) => assert_eq!(render(case).as_deref(), Ok(expected), "{name}"),
            None => assert!(render(case).is_err(), "{name}"),
        }
    }
}

#[test]
fn a_refusal_carries_the_words_of_the_template() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/templates.json")).unwrap();
    let refusal = cases.iter().find(|case| case["name"] == "refusal").unwrap();
    let message = render(refusal).unwrap_err();
    assert!(message.contains(refusal["refused"].as_str().unwrap()), "{message}");
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(endless, Markers::default()).unwrap();
    let error = template.render(&[], true, &Map::new()).unwrap_err();
    assert!(error.to_string().contains("fuel"), "{error}");
}

#[test]
fn a_template_that_calls_itself_is_stopped() {
    let recursive = "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}";
    let template = ChatTemplate::new(recursive, Markers::default()).unwrap();
    assert!(template.render(&[], true, &Map::new()).is_err());
}

#[test]
fn a_template_that_does_not_parse_is_refused() {
    let error = ChatTemplate::new("{% for %}", Markers::default())
        .err()
        .expect("a refusal");
    assert!(error.to_string().starts_with("chat template: "), "{error}");
}
