//! `--dry-run`: what a run will take, as a table or as JSON.

use std::time::Duration;

use anyhow::Result;
use rootstock_report::quantity::{bytes, count, duration};
use rootstock_train::run::{MemoryPlan, Plan, Trainer};
use rootstock_train::{disk, memory};
use serde_json::{Value, json};

use crate::args::Device;
use crate::settings::FinetuneSettings;

/// What a run will take.
pub struct Planned {
    plan: Plan,
    /// Rows computed at a time.
    rows: usize,
    /// Memory that it may take.
    room: Option<u64>,
    /// Bytes free where its files go.
    free: Option<u64>,
    warnings: Vec<String>,
}

impl Planned {
    /// Plans a run; nothing is written. `model_bytes` is what the weights of a model take that is written.
    ///
    /// # Errors
    /// Not even one row at a time fits into memory, or a device fails.
    pub fn new(settings: &FinetuneSettings, trainer: &mut Trainer<'_>, model_bytes: Option<u64>) -> Result<Self> {
        let warnings = trainer.fit()?;
        let plan = trainer.plan(model_bytes)?;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        warnings.extend(
            disk::check(&settings.output, plan.disk)
                .err()
                .map(|error| error.to_string()),
        );
        if settings.device != Device::Cpu {
            warnings.push(format!(
                "memory and rows at a time do not count what {} takes: weights, activations and gradients there are not known before",
                settings.device
            ));
        }
        Ok(Self {
            plan,
            rows: trainer.rows_at_a_time(),
            room: settings.run.memory_limit.or_else(memory::room),
            free: disk::free(&settings.output),
            warnings,
        })
    }

    /// For programs.
    ///
    /// # Errors
    /// None that is known: numbers can be written.
    pub fn json(&self) -> Result<Value> {
        let mut object = serde_json::to_value(self.plan)?;
        object["memory"]["total"] = json!(self.plan.memory.total());
        object["memory"]["room"] = json!(self.room);
        object["disk_free"] = json!(self.free);
        object["rows_at_a_time"] = json!(self.rows);
        object["warnings"] = json!(self.warnings);
        Ok(object)
    }

    /// For people: warnings to stderr, a table to stdout.
    pub fn print(&self) {
        self.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        for (name, value) in self.table() {
            println!("{name:<16} {value}");
        }
    }

    fn table(&self) -> Vec<(&'static str, String)> {
        let Plan { memory, disk, .. } = &self.plan;
        let of =
            |room: Option<u64>, rest: &str| room.map_or(String::new(), |room| format!(" of {}{rest}", bytes(room)));
        let rows = format!(", {} rows at a time", self.rows);
        let (room, free) = (of(self.room, ""), of(self.free, " free"));
        let mut table = self.work();
        table.push(("memory", format!("{}{room}{rows}", bytes(memory.total()))));
        table.extend(parts(memory));
        table.push(("disk", format!("{}{free}", bytes(disk.total()))));
        table.push(("  output", bytes(disk.output_bytes)));
        table.push(("  checkpoints", bytes(disk.checkpoint_bytes)));
        table
    }

    fn work(&self) -> Vec<(&'static str, String)> {
        let plan = &self.plan;
        let time = duration(Duration::try_from_secs_f64(plan.seconds).unwrap_or(Duration::MAX));
        let tokens = format!("{}, and {} evaluated", count(plan.tokens), count(plan.eval_tokens));
        vec![
            ("steps", count(plan.steps)),
            ("tokens", tokens),
            ("time", format!("{time} at {:.0} tokens/s", plan.tokens_per_second)),
        ]
    }
}

/// What memory is taken for.
fn parts(memory: &MemoryPlan) -> [(&'static str, String); 6] {
    [
        ("  model", bytes(memory.model)),
        ("  trained", bytes(memory.trained)),
        ("  activations", bytes(memory.activations)),
        ("  gradients", bytes(memory.gradients)),
        ("  logits", bytes(memory.logits)),
        ("  rows, program", bytes(memory.rows + memory.program)),
    ]
}
