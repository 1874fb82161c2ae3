//! Where settings come from: flags over environment over file, and nothing that is not known.

use assert_cmd::Command;

use crate::answers::{prompt_ids, question};
use crate::server::{BASE, ROOTSTOCK, Server, model};

/// A settings file with these lines.
fn file(lines: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    file
}

/// Longest prompt that the server takes, of two candidates.
fn takes(server: &Server, tokens: usize) -> bool {
    let reply = server.post("/v1/completions", &question(BASE, prompt_ids(1, tokens - 1), 1));
    assert!(
        reply.status == 200 || reply.code() == "context_length_exceeded",
        "{}",
        reply.text
    );
    reply.status == 200
}

#[test]
fn a_flag_wins_over_the_file() {
    let file = file("max-model-len = 64\nmax-num-seqs = 3\n");
    let path = file.path().to_str().unwrap();
    let from_file = Server::start(&["--config", path]);
    assert!(takes(&from_file, 64) && !takes(&from_file, 65));
    let from_flag = Server::start(&["--config", path, "--max-model-len", "96"]);
    assert!(takes(&from_flag, 96) && !takes(&from_flag, 97));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let file = file("max-model-lenght = 64\n");
    let mut command = Command::new(ROOTSTOCK);
    let output = command
        .args(["serve", "--port", "0", "--config"])
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("max-model-lenght"), "{error}");
}

#[test]
fn an_adapter_folder_that_is_none_stops_the_start_with_its_path() {
    let mut command = Command::new(ROOTSTOCK);
    command
        .args(["serve", "--port", "0", "--adapters", "no/such/folder", "--model"])
        .arg(model());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/folder"));
}
