//! `rootstock extract`: what a model has over its base, as an adapter.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::Result;
use rootstock_model::Checkpoint;
use rootstock_optimize::extract::{Extracted, Left, extract};
use rootstock_report::quantity::{count, significant};
use serde_json::{Value, json};

use crate::args::ExtractArgs;
use crate::progress::{Progress, Unit};
use crate::settings::ExtractSettings;

/// Extracts and writes.
///
/// # Errors
/// The settings or a model cannot be used, the models are of different architectures or the same, or the folder cannot be written.
pub fn run(args: ExtractArgs) -> Result<()> {
    let settings = ExtractSettings::new(&args)?;
    let base = Checkpoint::open(&settings.model.path)?;
    let tuned = Checkpoint::open(&settings.tuned.path)?;
    let mut progress = None;
    let mut extracted = extract(&base, &tuned, &settings.extraction, |done, all| {
        let progress = progress.get_or_insert_with(|| Progress::start("extracting", all as u64, Unit::Modules));
        progress.reached(done as u64);
    })?;
    drop(progress);
    extracted.folder.base_model = Some(settings.model.name.clone());
    extracted.folder.write(&settings.output, &card(&settings, &extracted))?;
    for left in extracted.left.iter().filter(|left| !left.saved) {
        eprintln!("left out: {}; --save-rest keeps it whole", described(left));
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", as_json(&settings, &extracted))?,
        false => write!(out, "{}", as_text(&settings, &extracted))?,
    }
    Ok(())
}

fn described(left: &Left) -> String {
    let relative = match left.base > 0.0 {
        true => format!("{} % of its length", significant(100.0 * left.delta / left.base)),
        false => format!("a difference of length {}", significant(left.delta)),
    };
    format!("{} ({}, {} values)", left.tensor, relative, count(left.elements as u64))
}

/// Share of the whole squared difference of the maps with pairs that these hold.
fn energy(extracted: &Extracted) -> f64 {
    let squared = extracted.captured.iter().map(|module| module.delta * module.delta);
    let held = extracted
        .captured
        .iter()
        .map(|module| module.energy * module.delta * module.delta);
    held.sum::<f64>() / squared.sum::<f64>()
}

fn as_json(settings: &ExtractSettings, extracted: &Extracted) -> Value {
    let modules = extracted.captured.iter().map(|module| {
        json!({
            "module": module.module,
            "rank": module.rank,
            "delta_norm": module.delta,
            "base_norm": module.base,
            "captured": module.energy,
        })
    });
    let rest = extracted.left.iter().map(|left| {
        json!({
            "tensor": left.tensor,
            "delta_norm": left.delta,
            "base_norm": left.base,
            "elements": left.elements,
            "saved": left.saved,
        })
    });
    json!({
        "model": settings.model.name,
        "tuned": settings.tuned.name,
        "output": settings.output,
        "captured": energy(extracted),
        "modules": modules.collect::<Vec<_>>(),
        "rest": rest.collect::<Vec<_>>(),
    })
}

fn as_text(settings: &ExtractSettings, extracted: &Extracted) -> String {
    let mut text = format!(
        "{}: pairs of rank {} on {} modules hold {} % of the squared difference\n",
        settings.output.display(),
        settings.extraction.rank,
        extracted.captured.len(),
        significant(100.0 * energy(extracted))
    );
    let mut worst: Vec<_> = extracted.captured.iter().collect();
    worst.sort_by(|a, b| a.energy.total_cmp(&b.energy));
    for module in worst.iter().take(SHOWN) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}: {} %", module.module, significant(100.0 * module.energy));
    }
    for left in extracted.left.iter().filter(|left| left.saved) {
        let _ = writeln!(text, "  whole: {}", described(left));
    }
    text
}

/// Modules that are shown to people, those of which least is held.
const SHOWN: usize = 3;

fn card(settings: &ExtractSettings, extracted: &Extracted) -> String {
    let (base, tuned) = (&settings.model.name, &settings.tuned.name);
    let name = settings.output.file_name().unwrap_or_default().to_string_lossy();
    let mut card = format!(
        "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- rootstock\n---\n\n# {name}\n\nWhat {tuned} has over \
         {base}: pairs of rank {}, taken out with rootstock {}, that hold {} % of the squared difference of {} modules.\n",
        json!(base),
        settings.extraction.rank,
        env!("CARGO_PKG_VERSION"),
        significant(100.0 * energy(extracted)),
        extracted.captured.len()
    );
    let left: Vec<_> = extracted.left.iter().filter(|left| !left.saved).collect();
    if !left.is_empty() {
        card.push_str("\nNot in it:\n\n");
        for left in left {
            let _ = writeln!(card, "- {}", described(left));
        }
    }
    card
}
