//! `rootstock finetune` as its user sees it, on tiny random models: what it says, what it writes, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::server::ROOTSTOCK;
use crate::tiny::write_model;

/// A tiny model and rows to train it on.
pub struct Bench {
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub fn new(arch: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_model(arch, &folder.path().join("base"));
        let row = |index: usize| {
            let answer = if index.is_multiple_of(3) { " yes" } else { " no" };
            let prompt = format!("Question {index}: is {index} a multiple of three? Answer:");
            format!("{}\n", json!({"prompt": prompt, "completion": answer}))
        };
        fs::write(folder.path().join("rows.jsonl"), (0..40).map(row).collect::<String>()).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, output: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(ROOTSTOCK);
        command.arg("finetune").current_dir(self.folder.path());
        command.args([
            "--model",
            "base",
            "--data-name",
            "rows.jsonl",
            "--output",
            output,
            "--threads",
            "2",
        ]);
        command.args(flags);
        command
    }

    pub fn run(&self, output: &str, flags: &[&str]) -> Output {
        self.command(output, flags).output().unwrap()
    }

    /// The object that a run prints.
    pub fn result(&self, output: &str, flags: &[&str]) -> Value {
        let output = self.run(output, &[flags, &["--json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn olives_command_line_trains_and_writes_everything_a_user_looks_for() {
    for arch in ["qwen3", "llama3-rope"] {
        let bench = Bench::new(arch);
        let line = "finetune --method lora --model_name_or_path base --trust_remote_code --output_path tuned --data_name rows.jsonl \
                    --max_steps 6 --log_level 1 --task_name text-generation --train_split train[:32] --eval_split train[32:40] \
                    --per_device_train_batch_size 1 --per_device_eval_batch_size 4 --logging_steps 2 --eval_steps 3 --save_steps 3 \
                    --logging_dir logs --report_to tensorboard --gradient_checkpointing true --gradient_accumulation_steps 2 \
                    --learning_rate 1e-2 --lr_scheduler_type cosine --lora_r 4 --lora_alpha 8 --target_modules q_proj v_proj";
        let mut command = Command::new(ROOTSTOCK);
        command.current_dir(bench.folder.path()).args(line.split_whitespace());
        command.args(["--text_template", "{prompt}{completion}", "--json"]);
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert!(output.status.success(), "{arch}: {said}");
        assert!(
            said.contains("--max-length: 512, which is the model's longest"),
            "{said}"
        );
        assert!(
            said.lines().any(|line| line.starts_with("trainable params: ")),
            "{said}"
        );
        assert!(
            said.contains("32 rows to train on, 8 held out") && said.contains("step 4/6  loss "),
            "{said}"
        );
        assert!(said.contains("saved tuned/checkpoint-3"), "{said}");

        let files = [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoint-3",
            "checkpoint-6",
            "metrics.jsonl",
            "report.html",
            "train_results.json",
        ];
        assert_eq!(names(&bench.path("tuned")), files);
        assert_eq!(names(&bench.path("logs")).len(), 1);
        let config: Value = serde_json::from_str(&bench.read("tuned/adapter_config.json")).unwrap();
        assert_eq!(
            (&config["r"], &config["target_modules"]),
            (&json!(4), &json!(["q_proj", "v_proj"]))
        );

        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&bench.read("tuned/train_results.json")).unwrap(),
            result
        );
        let number = |field: &str| result[field].as_f64().unwrap_or_else(|| panic!("{field} in {result}"));
        assert_eq!((number("steps"), &result["ending"]), (6.0, &json!("complete")));
        assert_eq!(
            (&result["dataset"]["rows"], &result["dataset"]["held_out"]),
            (&json!(32), &json!(8))
        );
        assert!(
            (number("eval_perplexity") - number("eval_loss").exp()).abs() < 1e-9,
            "{result}"
        );
        assert!(number("peak_memory") > 1e6 && number("runtime") > 0.0, "{result}");

        let report = bench.read("tuned/report.html");
        assert_eq!(
            report.matches("<pre").count(),
            3 * 3,
            "three samples of prompt, base and adapter"
        );
        assert!(report.contains("Question 32: is 32 a multiple of three?"), "{arch}");
        let metrics = bench.read("tuned/metrics.jsonl");
        let memory = |line: &str| serde_json::from_str::<Value>(line).unwrap()["memory"].as_u64();
        assert!(metrics.lines().filter_map(memory).count() == 3, "{metrics}");
    }
}

#[test]
fn the_card_says_what_was_trained_on_what_and_how_to_use_it() {
    let bench = Bench::new("mistral");
    let result = bench.result("my-adapter", &["--max-steps", "3", "--report-samples", "0"]);
    let card = bench.read("my-adapter/README.md");
    let header = "---\nbase_model: \"base\"\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n\
                  - \"base_model:adapter:base\"\n- lora\n- rootstock\n---\n\n# my-adapter\n";
    assert!(card.starts_with(header), "{card}");
    let hash = result["base_hash"].as_str().unwrap();
    for part in [
        &format!("| base hash | {hash} |"),
        "| file | `rows.jsonl` |",
        "| rows to train on | 36 |",
        "| rows held out | 4 |",
        "| loss on held-out rows | ",
        "rootstock serve --model base --adapters .",
        "PeftModel.from_pretrained(base, \"my-adapter\")",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    assert!(!bench.read("my-adapter/report.html").contains("<pre"));
}

#[test]
fn a_dry_run_says_what_a_run_takes_and_writes_nothing() {
    let bench = Bench::new("qwen2");
    let flags = [
        "--num-train-epochs",
        "2",
        "--save-steps",
        "2",
        "--eval-steps",
        "4",
        "--dry-run",
    ];
    let plan = bench.result("planned", &flags);
    assert!(!bench.path("planned").exists());
    let number = |field: &Value| field.as_u64().unwrap_or_else(|| panic!("{field} in {plan}"));
    // 36 rows by 8 are 5 steps; twice.
    assert_eq!(number(&plan["steps"]), 10);
    assert!(plan["seconds"].as_f64().unwrap() > 0.0 && plan["tokens_per_second"].as_f64().unwrap() > 0.0);

    let result = bench.result(
        "planned",
        &["--num-train-epochs", "2", "--save-steps", "2", "--eval-steps", "4"],
    );
    assert_eq!(number(&plan["tokens"]), number(&result["tokens"]));
    let size = |name: &str| fs::metadata(bench.path("planned").join(name)).unwrap().len();
    let adapter = size("adapter_model.safetensors");
    assert!(
        adapter.abs_diff(number(&plan["output_bytes"])) < adapter / 4,
        "{adapter} of {plan}"
    );
    let checkpoint =
        ["adapter_model.safetensors", "trainer_state.safetensors"].map(|name| size(&format!("checkpoint-10/{name}")));
    // Two are kept while a third is written.
    let checkpoints = 3 * checkpoint.iter().sum::<u64>();
    assert!(
        checkpoints.abs_diff(number(&plan["checkpoint_bytes"])) < checkpoints / 4,
        "{checkpoints} of {plan}"
    );

    let table = bench.run("table", &flags);
    let text = String::from_utf8(table.stdout).unwrap();
    for name in [
        "steps",
        "tokens",
        "time",
        "memory",
        "  activations",
        "disk",
        "  checkpoints",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}\n{text}");
    }
}

#[test]
fn where_memory_is_short_fewer_rows_are_computed_at_a_time_and_the_losses_stay() {
    let bench = Bench::new("llama3-rope");
    let flags = [
        "--max-steps",
        "4",
        "--logging-steps",
        "1",
        "--report-samples",
        "0",
        "--learning-rate",
        "1e-2",
    ];
    let memory = &bench.result("plan", &["--dry-run"])["memory"];
    let bytes = |field: &str| memory[field].as_u64().unwrap();
    let limit = (bytes("total") - (bytes("activations") + bytes("gradients")) / 3).to_string();
    let limited = [&flags[..], &["--memory-limit", &limit]].concat();

    let (whole, parts) = (bench.result("whole", &flags), bench.result("parts", &limited));
    assert_eq!(whole["warnings"], json!([]));
    let warning = parts["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("8 rows at a time") && warning.contains("computed 4 at a time"),
        "{warning}"
    );
    let losses = |output: &str| -> Vec<f64> {
        let metrics = bench.read(&format!("{output}/metrics.jsonl"));
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        metrics.lines().filter_map(loss).collect()
    };
    let (whole, parts) = (losses("whole"), losses("parts"));
    assert_eq!(whole.len(), 4);
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!((whole - parts).abs() < 1e-3, "{whole} and {parts}");
    }
}

#[test]
fn without_memory_for_one_row_nothing_is_written_and_the_error_says_what_helps() {
    let bench = Bench::new("mistral");
    let output = bench.run("none", &["--memory-limit", "1MiB"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("there is 1 MiB; take gradient_checkpointing, a shorter max_length"),
        "{said}"
    );
    assert!(!bench.path("none").exists());
}

#[test]
fn an_interrupted_run_ends_after_its_step_with_a_checkpoint_to_go_on_from() {
    let bench = Bench::new("mistral");
    let flags = [
        "--max-steps",
        "100000",
        "--save-steps",
        "100000",
        "--logging-steps",
        "1",
        "--json",
        "--report-samples",
        "0",
    ];
    let mut command = bench.command("broken", &flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("step 2/100000")));
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let said: Vec<String> = lines.collect();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{said:?}");
    assert!(
        said.iter().any(|line| line.starts_with("ends after this step")),
        "{said:?}"
    );
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["ending"], "interrupted");
    let step = result["steps"].as_u64().unwrap();
    assert!((2..100_000).contains(&step) && bench.path(&format!("broken/checkpoint-{step}")).is_dir());

    let refused = bench.run("broken", &flags);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("is not empty"), "{}", stderr(&refused));
}

#[test]
fn a_disk_that_is_too_small_is_found_before_the_first_step() {
    let bench = Bench::new("mistral");
    // A million checkpoints of many megabytes, which no disk has room for.
    let line = "--max-steps 2000000 --save-steps 1 --save-total-limit 1000000 --lora-r 1024";
    let flags: Vec<&str> = line.split(' ').collect();
    let planned = bench.run("planned", &[&flags[..], &["--dry-run"]].concat());
    let said = stderr(&planned);
    assert!(
        planned.status.success() && said.contains("warning: planned: the run writes about"),
        "{said}"
    );
    let output = bench.run("none", &flags);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("none: the run writes about") && said.contains("save_total_limit"),
        "{said}"
    );
    assert!(!bench.path("none").exists());
}

#[test]
fn what_is_not_there_or_would_run_code_is_refused_by_its_flag() {
    let bench = Bench::new("mistral");
    let refusal = |flags: &[&str]| {
        let mut command = Command::new(ROOTSTOCK);
        command
            .current_dir(bench.folder.path())
            .args(["finetune", "--model", "base"])
            .args(flags);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let hub = refusal(&["--output", "x", "--data_name", "xxyyzzz/phrase_classification"]);
    assert!(
        hub.contains("--data-name: there is no file or folder xxyyzzz/phrase_classification"),
        "{hub}"
    );
    assert!(
        hub.contains("hf download --repo-type dataset xxyyzzz/phrase_classification"),
        "{hub}"
    );
    assert!(refusal(&["--data-name", "rows.jsonl"]).contains("--output is missing"));
    assert!(refusal(&["--output", "x"]).contains("--data-name is missing"));

    let path = bench.path("base/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"});
    fs::write(&path, config.to_string()).unwrap();
    let code = refusal(&["--output", "x", "--data-name", "rows.jsonl", "--trust_remote_code"]);
    assert!(code.contains("never run") && code.contains("modeling_tiny"), "{code}");
}
