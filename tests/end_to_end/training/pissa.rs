//! `--init-lora-weights pissa`: what comes of it is a plain adapter.

use serde_json::Value;

use super::{Workplace, succeed};

const FLAGS: [&str; 6] = ["--max-steps", "20", "--learning-rate", "3e-3", "--lora-r", "4"];

fn loss(work: &Workplace, output: &str, flags: &[&str]) -> f64 {
    let mut command = work.finetune(output, flags);
    let result: Value = serde_json::from_slice(&succeed(command.arg("--json")).stdout).unwrap();
    assert_eq!(result["warnings"], serde_json::json!([]));
    result["eval_loss"].as_f64().unwrap()
}

fn config(work: &Workplace, output: &str) -> Value {
    let text = std::fs::read_to_string(work.path(output).join("adapter_config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_adapter_is_a_plain_pair_of_twice_the_rank_that_goes_on_as_one() {
    let work = Workplace::new();
    for init in ["pissa", "pissa_niter_4"] {
        let begun = loss(
            &work,
            "begun",
            &[&FLAGS[..], &["--init-lora-weights", init, "--overwrite"]].concat(),
        );
        let written = config(&work, "begun");
        assert_eq!(
            (&written["r"], &written["lora_alpha"], &written["init_lora_weights"]),
            (&8.into(), &32.into(), &true.into())
        );
        // A step that learns next to nothing shows where it begins.
        let adapter = work.path("begun");
        let mut command = work.finetune("more", &["--max-steps", "1", "--learning-rate", "1e-12", "--overwrite"]);
        let output = succeed(command.arg("--json").arg("--adapter").arg(adapter));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let more = result["eval_loss"].as_f64().unwrap();
        assert!((more / begun - 1.0).abs() < 1e-3, "{begun}, and goes on from {more}");
        assert_eq!(config(&work, "more")["r"], 8, "not doubled again");
    }
}

#[test]
fn it_learns_on_weights_in_four_bits() {
    let work = Workplace::new();
    let flags = |init: &'static str, steps: &'static str| {
        let flags = ["--method", "qlora", "--init-lora-weights", init, "--max-steps", steps];
        [&flags[..], &["--learning-rate", "3e-3", "--lora-r", "4", "--overwrite"]].concat()
    };
    let (begin, end) = (
        loss(&work, "out", &flags("pissa", "1")),
        loss(&work, "out", &flags("pissa", "30")),
    );
    assert!(end < 0.8 * begin, "from {begin} to {end}");
}
