//! `rootstock.toml`: read whole, or refused by the name of the field.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::folders::*;
use crate::adapter::{AdapterDefaults, AdapterError, AdapterErrorCode as Code, SamplingDefaults};

fn parse(text: &str) -> Result<AdapterDefaults, AdapterError> {
    AdapterDefaults::parse(text, Path::new("."))
}

fn refused(text: &str, code: Code, facts: &[&str]) {
    assert_refusal(&parse(text).unwrap_err(), code, facts);
}

#[test]
fn every_default_is_read() {
    let text = "
        system_prompt = 'Be brief.'
        chat_template = '{% for m in messages %}{{ m.content }}{% endfor %}'
        [sampling]
        temperature = 0
        top_p = 0.5
        top_k = -1
        min_p = 0.05
        presence_penalty = -2
        frequency_penalty = 2.0
        repetition_penalty = 1.1
        seed = -7
        max_tokens = 12
        stop = ['</s>', 'END']
    ";
    let expected = AdapterDefaults {
        system_prompt: Some("Be brief.".to_owned()),
        chat_template: Some("{% for m in messages %}{{ m.content }}{% endfor %}".to_owned()),
        sampling: SamplingDefaults {
            temperature: Some(0.0),
            top_p: Some(0.5),
            top_k: Some(-1),
            min_p: Some(0.05),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            repetition_penalty: Some(1.1),
            seed: Some(-7),
            max_tokens: Some(12),
            stop: Some(vec!["</s>".to_owned(), "END".to_owned()]),
        },
    };
    assert_eq!(parse(text).unwrap(), expected);
    assert_eq!(parse("").unwrap(), AdapterDefaults::default());
    assert_eq!(
        parse("[sampling]\nstop = 'x'").unwrap().sampling.stop,
        Some(vec!["x".to_owned()])
    );
}

#[test]
fn unknown_keys_are_refused_by_name() {
    refused(
        "sytem_prompt = 'x'",
        Code::UnsupportedField,
        &["rootstock.toml: sytem_prompt"],
    );
    refused(
        "[sampling]\ntemprature = 1",
        Code::UnsupportedField,
        &["sampling.temprature"],
    );
    refused("[limits]\nmax_tokens = 1", Code::UnsupportedField, &["limits"]);
}

#[test]
fn values_out_of_bounds_are_refused_with_what_is_expected() {
    for (field, value, expected) in [
        ("temperature", "2.1", "0 to 2"),
        ("temperature", "nan", "0 to 2"),
        ("temperature", "'hot'", "a number"),
        ("top_p", "0", "above 0, up to 1"),
        ("top_p", "1.5", "above 0, up to 1"),
        ("top_k", "-2", "an integer from -1"),
        ("top_k", "1.5", "an integer"),
        ("min_p", "inf", "0 to 1"),
        ("presence_penalty", "3", "-2 to 2"),
        ("frequency_penalty", "-3", "-2 to 2"),
        ("repetition_penalty", "0", "0.01 to 100"),
        ("seed", "'x'", "an integer"),
        ("max_tokens", "0", "an integer from 1"),
        ("stop", "['']", "1 to 1024 bytes"),
        ("stop", "[1]", "strings"),
        ("stop", "[]\nstop = []", "TOML"),
    ] {
        let text = format!("[sampling]\n{field} = {value}");
        refused(&text, Code::Malformed, &["rootstock.toml", expected]);
    }
    let many = format!("[sampling]\nstop = [{}]", "'x',".repeat(17));
    refused(&many, Code::Malformed, &["sampling.stop", "at most 16"]);
    refused(
        "system_prompt = 1",
        Code::Malformed,
        &["system_prompt: expected a string, got 1"],
    );
    refused("sampling = 1", Code::Malformed, &["sampling: expected a table"]);
    refused("= =", Code::Malformed, &["expected TOML"]);
}

#[test]
fn a_template_must_compile_and_lie_in_the_folder() {
    refused(
        "chat_template = '{% for %}'",
        Code::Malformed,
        &["rootstock.toml", "chat template"],
    );
    let both = "chat_template = 'x'\nchat_template_file = 'y'";
    refused(both, Code::Malformed, &["chat_template_file", "the only template"]);

    let folder = FolderBuilder::new().write();
    let dir = folder.dir.path();
    let write = |text: &str| fs::write(dir.join("rootstock.toml"), text).unwrap();
    fs::create_dir(dir.join("templates")).unwrap();
    fs::write(dir.join("templates/chat.jinja"), "{{ messages }}").unwrap();
    write("chat_template_file = './templates/chat.jinja'");
    assert_eq!(
        folder.load().unwrap().defaults.chat_template.as_deref(),
        Some("{{ messages }}")
    );
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    for path in [
        "../secret",
        "/etc/hostname",
        "templates/../../secret",
        "",
        ".",
        "templates/deep/chat.jinja",
        ".hidden.jinja",
        "templates/.hidden/chat.jinja",
    ] {
        write(&format!("chat_template_file = '{path}'"));
        folder.refused_on_load(Code::Malformed, &["chat_template_file", "stays inside"]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.join("link")).unwrap();
        write("chat_template_file = 'link'");
        folder.refused_on_load(Code::Malformed, &["chat_template_file", "a link to elsewhere"]);
    }
    write("chat_template_file = 'absent.jinja'");
    folder.refused_on_load(Code::NotFound, &["absent.jinja"]);
    fs::write(dir.join("bytes"), [0xff, 0xfe]).unwrap();
    write("chat_template_file = 'bytes'");
    folder.refused_on_load(Code::Malformed, &["bytes: expected UTF-8"]);
    fs::write(dir.join("rootstock.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    folder.refused_on_load(Code::Malformed, &["rootstock.toml", "at most 1048576 bytes"]);
}

#[test]
fn defaults_are_shown_by_headers_alone_and_are_not_hashed() {
    let folder = FolderBuilder::new().write();
    let without = folder.load().unwrap();
    fs::write(folder.dir.path().join("rootstock.toml"), "system_prompt = 'x'").unwrap();
    let with = folder.load().unwrap();
    assert_eq!(without.hash, with.hash);
    assert_eq!(inspect(folder.dir.path(), &tiny()).unwrap().defaults, with.defaults);
    assert_ne!(with.defaults, without.defaults);
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}", key in "[a-z_]{1,12}", value in "[-0-9a-z.\"'\\[\\]{}= ,]{0,16}") {
        let _ = parse(&text);
        let _ = parse(&format!("{key} = {value}"));
        let _ = parse(&format!("[sampling]\n{key} = {value}\nstop = {value}\ntop_k = {value}"));
    }
}
