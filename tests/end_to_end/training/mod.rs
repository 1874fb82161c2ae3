//! `rootstock finetune` on a tiny checkpoint: steps of milliseconds.

#[cfg(feature = "candle")]
mod devices;
mod errors;
mod full;
mod nf4;
mod pissa;
mod resume;
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::server::ROOTSTOCK;
use crate::tiny::write_model;

/// A model, rows and a place for output, in a folder that lives as long as the test.
struct Workplace {
    folder: tempfile::TempDir,
}

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_model("llama3-rope", &folder.path().join("model"));
        let workplace = Self { folder };
        workplace.write("rows.jsonl", &rows("ham", "spam"));
        workplace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command for a run on `rows` that writes to `output`.
    fn finetune_on(&self, rows: &str, output: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(ROOTSTOCK);
        command.arg("finetune").arg("--model").arg(self.path("model"));
        command.arg("--data-name").arg(self.path(rows));
        command.arg("--output").arg(self.path(output));
        command.args([
            "--threads",
            "2",
            "--max-length",
            "128",
            "--per-device-train-batch-size",
            "2",
        ]);
        command.args(flags);
        command
    }

    fn finetune(&self, output: &str, flags: &[&str]) -> Command {
        self.finetune_on("rows.jsonl", output, flags)
    }

    /// Names of what is in a folder, sorted.
    fn entries(&self, folder: &str) -> Vec<String> {
        names_in(&self.path(folder))
    }
}

/// Names of what is in a folder, sorted; none of one that is not there.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap);
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Twenty rows with two labels.
fn rows(even: &str, odd: &str) -> String {
    let row = |index: usize| {
        let label = if index.is_multiple_of(2) { even } else { odd };
        let prompt = format!("Mail {index} says {}:", label.repeat(index % 3 + 1));
        format!("{}\n", json!({"prompt": prompt, "completion": format!(" {label}")}))
    };
    (0..20).map(row).collect()
}

/// Runs a command that must succeed.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output
}

/// Runs a command that must fail, and gives its exit code and the line that says why.
fn fail(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {error}"));
    let reason = error.lines().find(|line| line.starts_with("error: "));
    let reason = reason.unwrap_or_else(|| panic!("{command:?}: no reason in {error}"));
    (code, reason.to_owned())
}
