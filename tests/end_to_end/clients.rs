//! The official OpenAI clients of Python and JavaScript against a running server, installed by scripts/setup-clients.sh.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Server, fixture_adapters};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a client that must succeed, on a server of its own: it counts what runs there.
fn drive(program: &Path, script: &str) {
    let server = Server::start(&["--adapters", fixture_adapters()]);
    let output = Command::new(program)
        .arg(root().join("tests/clients").join(script))
        .env("ROOTSTOCK_URL", format!("{}/v1", server.url))
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let written = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed\n{written}");
    assert!(written.contains("all checks passed"), "{written}");
    server.assert_alive();
}

#[test]
fn the_python_client_works() {
    let python = root().join(".venv/bin/python");
    assert!(
        python.is_file(),
        "there is no {}: run scripts/setup-clients.sh",
        python.display()
    );
    drive(&python, "python_client.py");
}

#[test]
fn the_javascript_client_works() {
    let package = root().join("tests/clients/js/node_modules/openai");
    assert!(
        package.is_dir(),
        "there is no {}: run scripts/setup-clients.sh",
        package.display()
    );
    drive(Path::new("node"), "js/client.mjs");
}
