//! `--dry-run`: what a run will take, as a table or as JSON.

use std::time::Duration;

use anyhow::Result;
use rootstock_train::memory;
use rootstock_train::quantity::{bytes, count, duration};
use rootstock_train::run::{MemoryPlan, Plan, Trainer};
use serde_json::json;

use crate::args::Device;
use crate::settings::FinetuneSettings;

/// Plans a run and prints it; nothing is written.
///
/// # Errors
/// Not even one row at a time fits into memory.
pub fn show(settings: &FinetuneSettings, trainer: &mut Trainer<'_>, json: bool) -> Result<()> {
    let warnings = trainer.fit()?;
    let plan = trainer.plan()?;
    let room = settings.run.memory_limit.or_else(memory::room);
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    if settings.device != Device::Cpu {
        warnings.push(format!(
            "memory and rows at a time do not count what {} takes: weights, activations and gradients there are not known before",
            settings.device
        ));
    }
    if json {
        let mut object = serde_json::to_value(plan)?;
        object["memory"]["total"] = json!(plan.memory.total());
        object["memory"]["room"] = json!(room);
        object["rows_at_a_time"] = json!(trainer.rows_at_a_time());
        object["warnings"] = json!(warnings);
        println!("{object}");
        return Ok(());
    }
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    for (name, value) in table(&plan, trainer.rows_at_a_time(), room) {
        println!("{name:<16} {value}");
    }
    Ok(())
}

fn table(plan: &Plan, rows: usize, room: Option<u64>) -> Vec<(&'static str, String)> {
    let MemoryPlan {
        program,
        model,
        trained,
        rows: of_rows,
        activations,
        gradients,
        logits,
    } = plan.memory;
    let room = room.map_or(String::new(), |room| format!(" of {}", bytes(room)));
    let time = |seconds: f64| duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    vec![
        ("steps", count(plan.steps)),
        (
            "tokens",
            format!("{}, and {} evaluated", count(plan.tokens), count(plan.eval_tokens)),
        ),
        (
            "time",
            format!("{} at {:.0} tokens/s", time(plan.seconds), plan.tokens_per_second),
        ),
        (
            "memory",
            format!("{}{room}, {rows} rows at a time", bytes(plan.memory.total())),
        ),
        ("  model", bytes(model)),
        ("  trained", bytes(trained)),
        ("  activations", bytes(activations)),
        ("  gradients", bytes(gradients)),
        ("  logits", bytes(logits)),
        ("  rows, program", bytes(of_rows + program)),
        ("disk", bytes(plan.adapter_bytes + plan.checkpoint_bytes)),
        ("  adapter", bytes(plan.adapter_bytes)),
        ("  checkpoints", bytes(plan.checkpoint_bytes)),
    ]
}
