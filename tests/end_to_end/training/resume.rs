//! A run that is killed goes on as if nothing had been; one that is not the same is refused.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::{Workplace, fail, names_in, rows, succeed};

/// Records, evaluations and checkpoints fall on different steps. Dropout makes a step depend on its random numbers, DoRA on its
/// magnitudes.
const FLAGS: &str =
    "--save-steps 3 --logging-steps 4 --eval-steps 10 --gradient-accumulation-steps 2 --early-stopping-patience 50";

fn adapter(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

/// The records of a run without what depends on the clock and the machine.
fn records(folder: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut record: Map<String, Value> = serde_json::from_str(line).unwrap();
        record.retain(|name, _| !["tokens_per_second", "memory", "seconds"].contains(&name.as_str()));
        record
    });
    lines.collect()
}

/// The step of the last whole record.
fn step(folder: &Path) -> u64 {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let mut whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let last: Option<Value> = whole.next_back().map(|line| serde_json::from_str(line).unwrap());
    last.map_or(0, |record| record["step"].as_u64().unwrap())
}

/// Kills a run with SIGKILL a while after it has recorded a step; false if it came to its end before.
fn killed_after(command: &mut Command, folder: &Path, wanted: u64, delay: Duration) -> bool {
    let mut child: Child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while step(folder) < wanted {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the run ended by itself: {status}");
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "no step {wanted}");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn a_run_killed_at_random_steps_ends_with_the_bytes_of_one_that_was_not() {
    let dora = "--lora-dropout 0.1 --use-dora true --lora-r 4";
    goes_on_as_if_nothing_had_been(dora, ("adapter_model.safetensors", 80, 4));
}

#[test]
fn pairs_that_began_as_components_go_on_with_the_same_bytes() {
    let pissa = "--lora-dropout 0.1 --init-lora-weights pissa --lora-r 4";
    goes_on_as_if_nothing_had_been(pissa, ("adapter_model.safetensors", 40, 2));
}

#[test]
fn a_model_with_all_its_weights_in_training_goes_on_with_the_same_bytes() {
    goes_on_as_if_nothing_had_been("--method full", ("model/model.safetensors", 40, 2));
}

/// A run of so many steps, killed at most so many times, writes the same file.
fn goes_on_as_if_nothing_had_been(flags: &str, (file, all_steps, most_kills): (&str, u64, usize)) {
    let work = Workplace::new();
    let (whole, pieces) = (work.path("whole"), work.path("pieces"));
    let last = all_steps.to_string();
    let flags = flags.split(' ').chain(FLAGS.split(' ')).chain(["--max-steps", &last]);
    let flags: Vec<&str> = flags.collect();
    succeed(&mut work.finetune("whole", &flags));
    let goes_on = || {
        let mut command = work.finetune("pieces", &flags);
        command.arg("--resume-from-checkpoint");
        command
    };
    let mut steps: Vec<u64> = (0..most_kills).map(|_| fastrand::u64(1..all_steps - 20)).collect();
    steps.sort_unstable();
    let mut kills = 0;
    for &wanted in &steps {
        let delay = Duration::from_micros(fastrand::u64(0..5_000));
        kills += u32::from(killed_after(&mut goes_on(), &pieces, wanted, delay));
    }
    assert!(kills as usize >= most_kills / 2, "killed {kills} times after {steps:?}");
    succeed(&mut goes_on());
    let bytes = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
    assert!(bytes(&whole) == bytes(&pieces), "other bytes after {steps:?}");
    assert_eq!(records(&whole), records(&pieces), "after {steps:?}");
    assert_eq!(names_in(&whole), names_in(&pieces), "after {steps:?}");
    assert_eq!(step(&whole), all_steps);
}

/// The flags of a short run, one of them with another value or added.
fn short<'a>(changed: &[&'a str]) -> Vec<&'a str> {
    let flags = "--max-steps 6 --save-steps 3 --lora-r 4 --precision f32";
    let mut flags: Vec<&str> = flags.split(' ').collect();
    let known = flags.iter().position(|flag| Some(flag) == changed.first());
    match known {
        Some(at) => flags[at + 1] = changed[1],
        None => flags.extend(changed),
    }
    flags
}

#[test]
fn a_run_does_not_go_on_under_other_settings_or_on_other_rows() {
    let work = Workplace::new();
    succeed(&mut work.finetune("out", &short(&[])));
    let before = adapter(&work.path("out"));
    let refuses = |rows: &str, changed: &[&str], setting: &str, reason: &str| {
        let mut command = work.finetune_on(rows, "out", &short(changed));
        let (code, error) = fail(command.arg("--resume-from-checkpoint"));
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(&format!("{setting}: {reason}")), "{error}");
        assert!(
            adapter(&work.path("out")) == before,
            "{setting}: the adapter was changed"
        );
    };
    for (setting, changed, reason) in [
        (
            "max_steps",
            ["--max-steps", "9"],
            "this run has 9, the one to go on from had 6",
        ),
        ("learning_rate", ["--learning-rate", "0.5"], "this run has 0.5"),
        ("seed", ["--seed", "7"], "this run has 7, the one to go on from had 42"),
        ("weight_decay", ["--weight-decay", "0.5"], "this run has 0.5"),
        (
            "lora_alpha",
            ["--lora-alpha", "3"],
            "this run has 3, the one to go on from had 16",
        ),
        ("lora_dropout", ["--lora-dropout", "0.5"], "this run has 0.5"),
        (
            "lora_r",
            ["--lora-r", "2"],
            "this run has 2, the one to go on from had 4",
        ),
        (
            "target_modules",
            ["--target-modules", "q_proj"],
            "this run has [\"q_proj\"]",
        ),
        (
            "precision",
            ["--precision", "bf16"],
            "this run has \"bf16\", the one to go on from had \"f32\"",
        ),
        ("method", ["--method", "qlora"], "this run has \"qlora\""),
    ] {
        refuses("rows.jsonl", &changed, setting, reason);
    }
    work.write("others.jsonl", &rows("ham", "eggs"));
    refuses("others.jsonl", &[], "data_name", "these are not the rows");
    // What does not decide the numbers may change.
    succeed(
        work.finetune("out", &short(&["--logging-steps", "1"]))
            .arg("--resume-from-checkpoint"),
    );
    assert!(adapter(&work.path("out")) == before);
}

/// The checkpoints in `out`, whole or not.
fn checkpoints(work: &Workplace) -> Vec<String> {
    let names = work.entries("out").into_iter();
    names.filter(|name| name.contains("checkpoint-")).collect()
}

#[test]
fn a_run_that_begins_anew_forgets_the_checkpoints_of_the_one_before() {
    let work = Workplace::new();
    let run = |steps: &str, more: &[&str]| {
        let flags = [&["--max-steps", steps, "--save-steps", "2", "--lora-r", "2"], more].concat();
        succeed(&mut work.finetune("out", &flags));
        checkpoints(&work)
    };
    assert_eq!(run("8", &[]), ["checkpoint-6", "checkpoint-8"]);
    assert_eq!(run("4", &["--overwrite"]), ["checkpoint-2", "checkpoint-4"]);
}

#[test]
fn what_a_killed_run_left_of_checkpoints_is_no_checkpoint_and_is_swept_up() {
    let work = Workplace::new();
    let flags = ["--max-steps", "4", "--save-steps", "2", "--lora-r", "2"];
    succeed(&mut work.finetune("out", &flags));
    for left in [".checkpoint-6.part", ".checkpoint-2.old"] {
        work.write(&format!("out/{left}/adapter_config.json"), "{");
    }
    succeed(work.finetune("out", &flags).arg("--resume-from-checkpoint"));
    assert_eq!(checkpoints(&work), ["checkpoint-2", "checkpoint-4"]);
}
