//! `rootstock search`: what it tries, what it keeps, how it goes on, and what it refuses.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::finetune_command::{Bench, names, stderr};
use crate::server::ROOTSTOCK;

const SHARED: &str =
    "model = \"base\"\ndata-name = \"rows.jsonl\"\nmax-steps = 4\nreport-samples = 1\nthreads = 2\nlora-r = 64\n";
const SPACE: &str = "[search]\ntrials = 4\nseed = 3\n\
                     [search_space.learning_rate]\ntype = \"float\"\nlow = 1e-6\nhigh = 3e-2\nlog = true\n\
                     [search_space.lora-r]\ntype = \"choice\"\nvalues = [1, 2, 4]\n";

fn command(bench: &Bench, config: &str, output: &str, flags: &[&str]) -> Command {
    fs::write(bench.path("search.toml"), config).unwrap();
    let mut command = Command::new(ROOTSTOCK);
    command.current_dir(bench.folder.path());
    command
        .args(["search", "--config", "search.toml", "--output", output])
        .args(flags);
    command
}

fn run(bench: &Bench, config: &str, output: &str, flags: &[&str]) -> Output {
    command(bench, config, output, flags).output().unwrap()
}

/// The object that a search prints.
fn result(bench: &Bench, config: &str, output: &str, flags: &[&str]) -> Value {
    let output = run(bench, config, output, &[flags, &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A search that has said a line which begins so.
fn started(bench: &Bench, config: &str, output: &str, flags: &[&str], until: &str) -> (Child, Vec<String>) {
    let mut command = command(bench, config, output, flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut said = Vec::new();
    let begins = |line: &String| line.starts_with(until);
    while !said.last().is_some_and(begins) {
        let Some(line) = lines.next() else { break };
        said.push(line);
    }
    if !said.last().is_some_and(begins) {
        child.wait().unwrap();
        panic!("{until} was not said: {said:?}");
    }
    (child, said)
}

#[test]
fn a_search_keeps_the_records_of_all_trials_and_the_adapter_of_the_best() {
    let bench = Bench::new("mistral");
    let config = format!("{SHARED}{SPACE}");
    let found = result(&bench, &config, "found", &[]);
    let trials = found["trials"].as_array().unwrap();
    assert_eq!(
        (trials.len(), &found["planned"], &found["complete"]),
        (4, &json!(4), &json!(true))
    );
    let loss = |trial: &Value| trial["result"].as_f64().unwrap();
    let lowest = trials.iter().map(loss).fold(f64::INFINITY, f64::min);
    let best = &found["best"];
    assert_eq!(loss(best), lowest);

    for (trial, ended) in trials.iter().enumerate() {
        let folder = format!("found/trials/{trial:04}");
        assert_eq!(
            names(&bench.path(&folder)),
            ["metrics.jsonl", "report.html", "train_results.json"]
        );
        let results: Value = serde_json::from_str(&bench.read(&format!("{folder}/train_results.json"))).unwrap();
        assert_eq!(results["eval_loss"], ended["result"]);
    }
    let (rate, rank) = (&best["parameters"]["learning-rate"], &best["parameters"]["lora-r"]);
    let config_of = |folder: &str| -> Value {
        serde_json::from_str(&bench.read(&format!("{folder}/adapter_config.json"))).unwrap()
    };
    assert_eq!(&config_of("found")["r"], rank);
    bench.result(
        "alone",
        &[
            "--max-steps",
            "4",
            "--learning-rate",
            &rate.to_string(),
            "--lora-r",
            &rank.to_string(),
        ],
    );
    let adapter = |folder: &str| fs::read(bench.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(
        adapter("found") == adapter("alone"),
        "other bits than a run with these settings"
    );
    let results: Value = serde_json::from_str(&bench.read("found/train_results.json")).unwrap();
    assert_eq!(results["output"], "found");
    assert!(bench.read("found/README.md").contains("# found\n"));

    let page = bench.read("found/search.html");
    for part in [
        "Results of trials",
        "Results over learning-rate",
        "Results over lora-r",
        "<pre",
        "max-steps",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_search_that_was_killed_goes_on_and_ends_as_one_that_was_not() {
    let bench = Bench::new("mistral");
    let config = format!("{SHARED}{SPACE}")
        .replace("max-steps = 4", "max-steps = 24")
        .replace("trials = 4", "trials = 3");
    let flags = ["--save-steps", "4"];
    let whole = run(&bench, &config, "whole", &flags);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let table = String::from_utf8(whole.stdout).unwrap();
    assert_eq!(
        (table.lines().count(), table.matches("  best").count()),
        (4, 1),
        "{table}"
    );

    let (mut child, said) = started(
        &bench,
        &config,
        "broken",
        &flags,
        "saved broken/trials/0001/checkpoint-4",
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        said.iter().filter(|line| line.starts_with("loading ")).count(),
        1,
        "{said:?}"
    );
    assert!(
        bench.path("broken/adapter_model.safetensors").is_file(),
        "the best so far is there at any time"
    );
    let rest = run(&bench, &config, "broken", &flags);
    let said = stderr(&rest);
    assert!(
        rest.status.success() && !said.contains("\ntrial 0: ") && said.contains("goes on after step "),
        "{said}"
    );
    assert_eq!(String::from_utf8(rest.stdout).unwrap(), table);
    for file in [
        "trials.jsonl",
        "adapter_model.safetensors",
        "adapter_config.json",
        "search.json",
    ] {
        let of = |folder: &str| fs::read(bench.path(folder).join(file)).unwrap();
        assert!(of("broken") == of("whole"), "{file}");
    }
    assert_eq!(
        names(&bench.path("broken/trials/0001")),
        names(&bench.path("whole/trials/0001"))
    );

    let more = result(&bench, &config, "whole", &["--trials", "4"]);
    assert_eq!(more["trials"].as_array().unwrap().len(), 4);
    let other = run(&bench, &config, "whole", &["--max-steps", "5"]);
    assert_eq!(other.status.code(), Some(2));
    let said = stderr(&other);
    assert!(said.contains("--max-steps: now \"5\", then \"24\""), "{said}");
}

#[test]
fn a_trial_that_is_worse_than_the_median_is_pruned() {
    let bench = Bench::new("mistral");
    let config = format!(
        "{SHARED}eval-steps = 1\n[search]\nstrategy = \"grid\"\npruning = true\npruning-warmup-trials = 2\n\
         [search_space.learning-rate]\ntype = \"float\"\nvalues = [0.02, 0.01, 1e-9]\n"
    );
    let found = result(&bench, &config, "found", &[]);
    let states: Vec<_> = found["trials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| &trial["state"])
        .collect();
    assert_eq!(states, ["finished", "finished", "pruned"], "{found}");
    let results: Value = serde_json::from_str(&bench.read("found/trials/0002/train_results.json")).unwrap();
    assert_eq!(
        (&results["ending"], &results["steps"]),
        (&json!("pruned"), &json!(1)),
        "{results}"
    );
}

#[test]
fn trials_may_be_compared_by_a_metric_of_eval() {
    let bench = Bench::new("mistral");
    let split = "train-split = \"train[:28]\"\neval-split = \"train[28:]\"\n";
    let config = format!(
        "{SHARED}{split}[search]\nstrategy = \"grid\"\nmetric = \"accuracy\"\n\
         [search_space.learning-rate]\ntype = \"float\"\nvalues = [0.02, 1e-9]\n"
    );
    let found = result(&bench, &config, "found", &[]);
    assert_eq!(
        (&found["metric"], &found["direction"]),
        (&json!("accuracy"), &json!("maximize"))
    );
    let results = found["trials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| trial["result"].as_f64().unwrap());
    let best = found["best"]["result"].as_f64().unwrap();
    assert_eq!(best, results.fold(0.0, f64::max), "{found}");

    let line = "eval --model base --adapter found --adapters-only --data-name rows.jsonl --eval-split train[28:] --metrics accuracy --json";
    let output = Command::new(ROOTSTOCK)
        .current_dir(bench.folder.path())
        .args(line.split(' '))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["models"][0]["metrics"]["accuracy"], best);
}

#[test]
fn an_interrupted_search_ends_after_its_step_and_says_that_it_is_not_complete() {
    let bench = Bench::new("mistral");
    let config = format!("{SHARED}{SPACE}").replace("max-steps = 4", "max-steps = 100000\nlogging-steps = 1");
    let (child, _) = started(&bench, &config, "broken", &["--json"], "step 2/100000");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["complete"], &found["trials"]), (&json!(false), &json!([])));
}

#[test]
fn a_trial_that_cannot_be_done_is_a_row_of_the_table_and_a_search_without_any_result_fails() {
    let bench = Bench::new("mistral");
    let targets = |values: &str| {
        format!(
            "{SHARED}[search]\nstrategy = \"grid\"\n[search_space.target-modules]\ntype = \"choice\"\nvalues = {values}\n"
        )
    };
    let found = result(&bench, &targets("[\"q_proj\", \"no_such_module\"]"), "some", &[]);
    assert_eq!(
        (&found["trials"][1]["state"], &found["best"]["trial"]),
        (&json!("failed"), &json!(0))
    );
    assert!(
        found["trials"][1]["error"]
            .as_str()
            .unwrap()
            .contains("got none that matches"),
        "{found}"
    );
    let none = run(&bench, &targets("[\"no_such_module\"]"), "none", &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        stderr(&none).contains("error: no trial was finished"),
        "{}",
        stderr(&none)
    );
}

#[test]
fn what_is_no_search_is_refused_before_anything_is_written() {
    let bench = Bench::new("mistral");
    let space = |lines: &str| format!("{SHARED}{lines}");
    let rank = "[search_space.lora-r]\ntype = \"int\"\nlow = 0\nhigh = 0\n";
    let both = "[search_space.lora-r]\ntype = \"int\"\nlow = 1\nhigh = 2\n";
    for (config, flags, reason) in [
        (space(""), &[][..], "search: give a settings file with a table"),
        (
            space("[search_space.loraa]\ntype = \"int\"\nlow = 1\nhigh = 2\n"),
            &[],
            "search_space.loraa: unknown key",
        ),
        (
            space("[search_space.seed]\ntype = \"int\"\nlow = 3\nhigh = 2\n"),
            &[],
            "search_space.seed: expected low <= high",
        ),
        (
            space("[search_space.output]\ntype = \"choice\"\nvalues = [\"a\"]\n"),
            &[],
            "search_space.output: it does not decide",
        ),
        (space("[search]\ntrails = 3\n"), &[], "search: unknown key `trails`"),
        (space(rank), &[], "trial 0, {\"lora-r\":0}: --lora-r"),
        (
            space(both),
            &["--lora-r", "3"],
            "search_space.lora-r: --lora-r is set as a flag",
        ),
        (
            space(both),
            &["--pruning"],
            "--pruning: trials are judged by evaluations on their way; set --eval-steps",
        ),
        (
            space(both),
            &["--metric", "acuracy"],
            "expected one of eval-loss, perplexity, accuracy",
        ),
        (
            space(both),
            &["--metric", "accuracy"],
            "--metric accuracy: it is measured on the rows of --eval-split",
        ),
        (space(both), &["--eval-share", "0"], "--eval-share: nothing is held out"),
        (space(both), &["--trials", "0"], "--trials: expected a positive number"),
    ] {
        let output = run(&bench, &config, "none", flags);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{reason}\n{said}");
        assert!(!bench.path("none").exists(), "{reason}");
    }
    fs::create_dir(bench.path("full")).unwrap();
    fs::write(bench.path("full/letter.txt"), "dear").unwrap();
    let full = run(&bench, &format!("{SHARED}{SPACE}"), "full", &[]);
    assert!(
        stderr(&full).contains("is not empty and has no search in it"),
        "{}",
        stderr(&full)
    );
    let plan = result(&bench, &format!("{SHARED}{SPACE}"), "planned", &["--dry-run"]);
    assert_eq!((&plan["trials"], &plan["first"]["steps"]), (&json!(4), &json!(4)));
    assert!(!bench.path("planned").exists());
}
