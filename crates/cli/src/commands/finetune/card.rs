//! The model card: `README.md` of an adapter's folder, with the header that model hubs read.

use std::fmt::Write;

use rootstock_train::adapter::Targets;
use rootstock_train::quantity::{bytes, count, duration, significant};
use serde_json::json;

use super::outcome::{Facts, Outcome};
use crate::settings::FinetuneSettings;

/// Writes the card; without an outcome, that of a checkpoint.
pub fn card(settings: &FinetuneSettings, facts: &Facts, outcome: Option<&Outcome>) -> String {
    let name = &settings.title;
    let mut card = header(&facts.base);
    let _ = write!(
        card,
        "# {name}\n\nA LoRA adapter on {}, trained with rootstock {}.\n\n",
        facts.base,
        env!("CARGO_PKG_VERSION")
    );
    let results = outcome.map_or_else(Vec::new, results);
    if results.is_empty() {
        card.push_str("A checkpoint: its run is not at its end.\n\n");
    }
    for (heading, rows) in [
        ("Results", results),
        ("Data", data(facts)),
        ("Settings", parameters(settings, facts)),
    ] {
        if !rows.is_empty() {
            table(heading, &rows, &mut card);
        }
    }
    card.push_str(&usage(name, settings, facts));
    card
}

/// The settings that decide what is learned, by Hugging Face's names.
pub fn parameters(settings: &FinetuneSettings, facts: &Facts) -> Vec<(String, String)> {
    let (run, lora) = (&settings.run, &settings.lora);
    let targets = match &lora.targets {
        Targets::AllLinear => "all-linear".to_owned(),
        Targets::Names(names) => names.join(", "),
        Targets::Expression(expression) => expression.clone(),
    };
    let method = facts
        .quant_type
        .map_or(facts.method.to_owned(), |kind| format!("{}, {kind}", facts.method));
    let rows = [
        ("base", facts.base.clone()),
        ("base hash", facts.base_hash.clone()),
        ("method", method),
        ("trained parameters", count(facts.trainable_parameters as u64)),
        ("lora_r", lora.rank.to_string()),
        ("lora_alpha", significant(lora.alpha)),
        ("lora_dropout", significant(f64::from(lora.dropout))),
        ("target_modules", targets),
        ("learning_rate", significant(run.learning_rate)),
        ("lr_scheduler_type", format!("{:?}", run.schedule).to_lowercase()),
        ("per_device_train_batch_size", run.batch_size.to_string()),
        ("gradient_accumulation_steps", run.accumulation.to_string()),
        ("max_length", settings.max_length.to_string()),
        ("device", settings.device.to_string()),
        ("precision", format!("{:?}", settings.precision).to_lowercase()),
        ("seed", run.seed.to_string()),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// Strings in JSON are strings in YAML.
fn header(base: &str) -> String {
    format!(
        "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- {}\n- lora\n- rootstock\n---\n\n",
        json!(base),
        json!(format!("base_model:adapter:{base}"))
    )
}

fn results(outcome: &Outcome) -> Vec<(String, String)> {
    let loss =
        |loss: Option<f64>| loss.map(|loss| format!("{}, perplexity {}", significant(loss), significant(loss.exp())));
    let seconds = std::time::Duration::try_from_secs_f64(outcome.runtime).unwrap_or_default();
    let rows = [
        ("training loss at the end", loss(outcome.loss)),
        ("loss on held-out rows", loss(outcome.eval_loss)),
        ("steps", Some(count(outcome.steps))),
        ("epochs", Some(significant(outcome.epoch))),
        ("tokens", Some(count(outcome.tokens))),
        ("time", Some(duration(seconds))),
        ("peak memory", outcome.peak_memory.map(bytes)),
    ];
    let known = rows
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

fn data(facts: &Facts) -> Vec<(String, String)> {
    let dataset = facts.dataset;
    let rows = [
        ("file", format!("`{}`", facts.data_name)),
        ("rows to train on", count(dataset.rows)),
        ("rows held out", count(dataset.held_out)),
        ("tokens of a pass", count(dataset.tokens)),
        ("of these with loss", count(dataset.learned)),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn table(heading: &str, rows: &[(String, String)], card: &mut String) {
    let _ = write!(card, "## {heading}\n\n| | |\n|---|---|\n");
    for (name, value) in rows {
        // A bar would end the cell, as in an expression of target modules.
        let _ = writeln!(card, "| {name} | {} |", value.replace('|', "\\|").replace('\n', " "));
    }
    card.push('\n');
}

fn usage(name: &str, settings: &FinetuneSettings, facts: &Facts) -> String {
    let base = &facts.base;
    let quantize = match (&facts.gguf, facts.quant_type) {
        (_, Some("nf4")) => " --quantize nf4",
        (None, Some("q4")) => " --quantize 4",
        _ => "",
    };
    let parent = match settings.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(_) => "FOLDER",
        None => ".",
    };
    let from = match &facts.gguf {
        Some(file) => format!("\"FOLDER\", gguf_file={}", json!(file)),
        None => json!(base).to_string(),
    };
    format!(
        "## Use\n\nServe it, with `{parent}` the folder that `{name}` lies in, and ask for it by its name:\n\n\
         ```\nrootstock serve --model {base}{quantize} --adapters {parent}\n\
         curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{{\"model\": {}, \"prompt\": \"...\"}}'\n```\n\n\
         With peft:\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
         base = AutoModelForCausalLM.from_pretrained({from})\n\
         model = PeftModel.from_pretrained(base, {})\n```\n\n{}\n",
        json!(name),
        json!(name),
        precision(facts)
    )
}

/// On which weights the adapter is at its best.
fn precision(facts: &Facts) -> String {
    match (&facts.gguf, facts.quant_type) {
        (_, Some("nf4")) => {
            let parts = [
                "It was trained on weights rounded to NF4 with double quantization and has learned to make up for that: serve it with",
                "`--quantize nf4` (the weights of bitsandbytes' `load_in_4bit` with `nf4` and `bnb_4bit_use_double_quant`), and measure it",
                "with `rootstock eval` before serving it otherwise.",
            ];
            parts.join(" ")
        }
        (Some(file), _) => format!(
            "It was trained on the weights of `{file}` as they are quantized there, and has learned to make up for that. Other \
             precisions of the same model are other weights: rootstock refuses it there until `rootstock_base_hash` is taken out of its \
             adapter_config.json; measure it then with `rootstock eval`."
        ),
        (None, Some("q4")) => {
            let parts = [
                "It was trained on weights rounded to 4 bits and has learned to make up for that: serve it with `--quantize 4`, and",
                "measure it with `rootstock eval` before serving it otherwise.",
            ];
            parts.join(" ")
        }
        _ => "It was trained on the weights as they are stored.".to_owned(),
    }
}
