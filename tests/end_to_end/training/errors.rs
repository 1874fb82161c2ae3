//! What is wrong with a run is said by name, before anything is written where that is possible: 2 for how it was called, 1 for
//! what went wrong.

use std::fs;
use std::process::Command;

use super::{Workplace, fail, succeed};

const SHORT: [&str; 4] = ["--max-steps", "2", "--lora-r", "2"];

/// Fails with a code and a reason that says all of `words`, and leaves no adapter.
fn refuses(work: &Workplace, command: &mut Command, code: i32, words: &[&str]) {
    let (found, error) = fail(command);
    assert_eq!(found, code, "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    let left = work.entries("out");
    let half = |name: &&String| {
        name.starts_with("adapter")
            || name.contains("model")
            || name.starts_with("checkpoint")
            || name.contains(".part")
    };
    assert_eq!(left.iter().find(half), None, "{left:?} after {error}");
}

#[test]
fn rows_of_no_known_shape_are_named_with_their_columns() {
    let work = Workplace::new();
    let file = work.write("odd.jsonl", "{\"subject\": \"a\", \"label\": \"b\"}\n");
    let place = format!("{}:1: ", file.display());
    let words = [
        place.as_str(),
        "{prompt, completion}",
        "{subject, label}",
        "--text_template",
    ];
    refuses(&work, &mut work.finetune_on("odd.jsonl", "out", &SHORT), 1, &words);
    assert!(!work.path("out").exists());
}

#[test]
fn a_row_without_the_column_is_named_with_its_line() {
    let work = Workplace::new();
    let rows = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\"}\n";
    let file = work.write("torn.jsonl", rows);
    let place = format!("{}:2: ", file.display());
    let words = [place.as_str(), "\"completion\"", "found none"];
    refuses(&work, &mut work.finetune_on("torn.jsonl", "out", &SHORT), 1, &words);
}

#[test]
fn a_line_that_is_no_json_is_named() {
    let work = Workplace::new();
    let file = work.write("torn.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"\n{\"text\": \"c\"}\n");
    let place = format!("{}:2: ", file.display());
    refuses(
        &work,
        &mut work.finetune_on("torn.jsonl", "out", &SHORT),
        1,
        &[place.as_str()],
    );
}

#[test]
fn a_template_names_columns_that_are_there() {
    let work = Workplace::new();
    let with = |template: &str| {
        let flags = [&SHORT[..], &["--text-template", template]].concat();
        work.finetune("out", &flags)
    };
    let words = ["--text-template", "expected a column in braces, found none"];
    refuses(&work, &mut with("no column at all"), 2, &words);
    let place = format!("{}:1: ", work.path("rows.jsonl").display());
    let words = [place.as_str(), "\"subject\"", "prompt, completion"];
    refuses(&work, &mut with("Subject: {subject}"), 1, &words);
}

#[test]
fn settings_out_of_range_or_that_match_nothing_are_named() {
    let work = Workplace::new();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--lora-r", "0"], &["--lora-r", "0"]),
        (
            &["--target-modules", "query"],
            &["target_modules", "none that matches", "self_attn.q_proj"],
        ),
        (
            &["--precision", "fp8"],
            &["--precision fp8", "no supported device", "--method qlora"],
        ),
        (&["--precision", "fp16"], &["--precision fp16", "bf16"]),
        (&["--quant-type", "nf4"], &["--quant-type nf4", "--method qlora"]),
        (
            &["--method", "full", "--lora-r", "4"],
            &["--lora-r", "--method full trains every weight"],
        ),
        (
            &["--init-lora-weights", "olora"],
            &["--init-lora-weights", "expected true, pissa or pissa_niter_N"],
        ),
        (
            &["--init-lora-weights", "pissa", "--use-dora"],
            &["init_lora_weights", "without use_dora"],
        ),
        (
            &["--init-lora-weights", "pissa", "--lora-r", "33"],
            &["lora_r", "self_attn.k_proj", "at most 32", "got 33"],
        ),
    ];
    for (flags, words) in cases {
        let mut command = work.finetune("out", &["--max-steps", "2"]);
        refuses(&work, command.args(flags), 2, words);
        assert!(!work.path("out").exists(), "{flags:?}");
    }
}

#[test]
fn a_folder_with_something_in_it_is_left_as_it_is() {
    let work = Workplace::new();
    work.write("out/notes.txt", "mine");
    let (code, error) = fail(&mut work.finetune("out", &SHORT));
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("is not empty") && error.contains("--overwrite"),
        "{error}"
    );
    assert_eq!(work.entries("out"), ["notes.txt"]);
    succeed(work.finetune("out", &SHORT).arg("--overwrite"));
    assert_eq!(fs::read_to_string(work.path("out/notes.txt")).unwrap(), "mine");
}

/// The same under a limit on the size of files, which a shell sets; what exceeds it fails as on a disk without room.
fn with_small_files(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn a_file_that_cannot_grow_leaves_no_half_of_an_adapter() {
    let work = Workplace::new();
    let run = work.finetune("out", &["--max-steps", "2", "--lora-r", "8"]);
    let words = ["adapter_model.safetensors", "File too large"];
    refuses(&work, &mut with_small_files(&run), 1, &words);
    // Nor half of a checkpoint.
    let run = work.finetune(
        "out",
        &["--max-steps", "2", "--save-steps", "1", "--lora-r", "8", "--overwrite"],
    );
    refuses(&work, &mut with_small_files(&run), 1, &words);
}

#[test]
fn a_file_that_cannot_grow_leaves_no_half_of_a_model() {
    let work = Workplace::new();
    let run = work.finetune("out", &["--max-steps", "2", "--method", "full"]);
    let words = ["model.safetensors", "File too large"];
    refuses(&work, &mut with_small_files(&run), 1, &words);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_with_its_file_and_leaves_no_half_of_an_adapter() {
    for (file, full) in [
        ("adapter_model.safetensors", "adapter_model.safetensors.part"),
        ("metrics.jsonl", "metrics.jsonl"),
    ] {
        let work = Workplace::new();
        fs::create_dir(work.path("out")).unwrap();
        // A device that has room for nothing, in the file's place.
        std::os::unix::fs::symlink("/dev/full", work.path("out").join(full)).unwrap();
        let mut command = work.finetune("out", &SHORT);
        refuses(&work, command.arg("--overwrite"), 1, &[file, "No space left on device"]);
    }
}
