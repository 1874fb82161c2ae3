//! Several tasks of one settings file: one base, an output for each, and what happens to the others when one fails.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::finetune_command::{Bench, names, stderr};
use crate::server::ROOTSTOCK;

const SHARED: &str =
    "model = \"base\"\ndata-name = \"rows.jsonl\"\noutput = \"out\"\nmax-steps = 3\nreport-samples = 1\nthreads = 2\n";

fn run(bench: &Bench, config: &str, flags: &[&str]) -> Output {
    fs::write(bench.path("tasks.toml"), config).unwrap();
    let mut command = Command::new(ROOTSTOCK);
    command
        .current_dir(bench.folder.path())
        .args(["finetune", "--config", "tasks.toml"]);
    command.args(flags).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tasks_are_trained_on_one_loaded_base_to_the_bits_of_runs_alone() {
    let bench = Bench::new("mistral");
    fs::write(
        bench.path("recipe.toml"),
        "output = \"elsewhere\"\nlora-r = 3\nmax-steps = 9\n",
    )
    .unwrap();
    let tasks = "[[task]]\nname = \"small\"\nlora-r = 2\nmax-length = 64\n\
                 [[task]]\nname = \"long\"\nlora_r = 4\nmax-steps = 2\nmax-length = 128\noutput = \"own\"\n\
                 [[task]]\nname = \"recipe\"\nconfig = \"recipe.toml\"\nmax-steps = 1\n";
    let output = run(&bench, &format!("{SHARED}{tasks}"), &["--json"]);
    let said = stderr(&output);
    assert_eq!(
        said.lines().filter(|line| line.starts_with("loading ")).count(),
        1,
        "{said}"
    );
    let result = json_of(&output);
    let of = |field: &str| -> Vec<Value> {
        let tasks = result["tasks"].as_array().unwrap().iter();
        tasks.map(|task| task.pointer(field).unwrap().clone()).collect()
    };
    assert_eq!(of("/name"), ["small", "long", "recipe"]);
    assert_eq!(of("/state"), ["complete"; 3]);
    assert_eq!(of("/result/steps"), [3, 2, 1]);
    assert_eq!(of("/result/output"), ["out/small", "own", "out/recipe"]);
    assert!(!bench.path("elsewhere").exists());
    for (folder, rank) in [("out/small", 2), ("own", 4), ("out/recipe", 3)] {
        let config: Value = serde_json::from_str(&bench.read(&format!("{folder}/adapter_config.json"))).unwrap();
        assert_eq!(config["r"], json!(rank));
        let report = bench.read(&format!("{folder}/report.html"));
        assert_eq!(
            report.matches("<pre").count(),
            3,
            "one sample of prompt, base and adapter"
        );
    }
    bench.result("alone", &["--max-steps", "3", "--lora-r", "2", "--max-length", "64"]);
    let adapter = |folder: &str| fs::read(bench.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("out/small") == adapter("alone"), "other bits than alone");
}

#[test]
fn a_task_that_fails_leaves_the_others_and_the_exit_code_says_so() {
    let bench = Bench::new("mistral");
    fs::write(
        bench.path("torn.jsonl"),
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \n",
    )
    .unwrap();
    let tasks = "[[task]]\nname = \"first\"\n[[task]]\nname = \"torn\"\ndata-name = \"torn.jsonl\"\n[[task]]\nname = \"last\"\n";
    let output = run(
        &bench,
        &format!("{SHARED}{tasks}"),
        &["--max-steps", "1", "--report-samples", "0"],
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("torn.jsonl:2:") && said.contains("error: 1 of 3 tasks failed: torn"),
        "{said}"
    );
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let states: Vec<_> = lines[1..].iter().map(|cells| (cells[0], cells[1])).collect();
    assert_eq!(
        states,
        [("first", "complete"), ("torn", "failed"), ("last", "complete")],
        "{table}"
    );
    assert_eq!(names(&bench.path("out")), ["first", "last"]);
    assert!(bench.path("out/last/train_results.json").is_file());
}

#[test]
fn what_is_wrong_with_a_task_is_found_before_any_is_trained() {
    let bench = Bench::new("mistral");
    for (tasks, reason) in [
        (
            "[[task]]\nname = \"a\"\n[[task]]\nname = \"b\"\nlora-rr = 2\n",
            "task b: unknown key `lora-rr`",
        ),
        (
            "[[task]]\nname = \"a\"\n[[task]]\nname = \"b\"\nlora-r = 0\n",
            "task b: --lora-r",
        ),
        (
            "[[task]]\nname = \"a\"\n[[task]]\nname = \"a\"\n",
            "two tasks are called a",
        ),
        (
            "[[task]]\nname = \"a\"\n[[task]]\nlora-r = 2\n",
            "every task needs a name",
        ),
        ("[[task]]\nname = \"../a\"\n", "expected a name that a folder can have"),
        (
            "[[task]]\nname = \"a\"\n[[task]]\nname = \"b\"\noutput = \"out/a\"\n",
            "--output out/a is that of another task",
        ),
        (
            "[[task]]\nname = \"a\"\nconfig = \"none.toml\"\n",
            "task a: none.toml: No such file",
        ),
        ("[task]\nname = \"a\"\n", "expected tables [[task]]"),
    ] {
        let output = run(&bench, &format!("{SHARED}{tasks}"), &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{reason}\n{said}");
        assert!(!bench.path("out").exists(), "{reason}");
    }
}

#[test]
fn a_signal_ends_the_task_that_runs_and_those_behind_it_do_not_start() {
    let bench = Bench::new("mistral");
    let tasks = "logging-steps = 1\n[[task]]\nname = \"a\"\n[[task]]\nname = \"b\"\n";
    fs::write(bench.path("tasks.toml"), format!("{SHARED}{tasks}")).unwrap();
    let mut command = Command::new(ROOTSTOCK);
    command.current_dir(bench.folder.path());
    command.args(["finetune", "--config", "tasks.toml", "--max-steps", "100000", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("step 2/100000")));
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    lines.for_each(drop);
    let result = json_of(&child.wait_with_output().unwrap());
    let states: Vec<_> = result["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| &task["state"])
        .collect();
    assert_eq!(states, ["interrupted", "not started"]);
}

#[test]
fn a_dry_run_plans_every_task() {
    let bench = Bench::new("mistral");
    let tasks = "[[task]]\nname = \"a\"\n[[task]]\nname = \"b\"\nmax-steps = 5\n";
    let plans = json_of(&run(&bench, &format!("{SHARED}{tasks}"), &["--dry-run", "--json"]));
    let steps: Vec<_> = plans["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| &task["plan"]["steps"])
        .collect();
    assert_eq!(steps, [3, 5]);
    assert!(!bench.path("out").exists());
}
