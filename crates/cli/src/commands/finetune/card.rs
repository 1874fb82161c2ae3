//! The model card: `README.md` of an adapter's folder, or of a model's, with the header that model hubs read.

use std::fmt::Write;

use rootstock_report::quantity::{bytes, count, duration, significant};
use rootstock_train::adapter::Targets;
use serde_json::json;

use super::outcome::{Facts, Outcome};
use crate::args::Method;
use crate::models::OUTPUT_MODEL;
use crate::settings::FinetuneSettings;

/// Writes the card; without an outcome, that of a checkpoint.
pub fn card(settings: &FinetuneSettings, facts: &Facts, outcome: Option<&Outcome>) -> String {
    let name = &settings.title;
    let full = settings.method == Method::Full;
    let mut card = header(facts);
    let _ = write!(
        card,
        "# {name}\n\n{}, trained with rootstock {}.\n\n",
        match facts.method {
            "full" => format!("{} with all its weights", facts.base),
            "houlsby" | "pfeiffer" => format!("A bottleneck adapter on {}", facts.base),
            _ => format!("A LoRA adapter on {}", facts.base),
        },
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
    card.push_str(&match full {
        true => model_usage(name, settings),
        false => usage(name, settings, facts),
    });
    card
}

fn has_bottlenecks(facts: &Facts) -> bool {
    matches!(facts.method, "houlsby" | "pfeiffer")
}

/// The settings that decide what is learned, by Hugging Face's names.
pub fn parameters(settings: &FinetuneSettings, facts: &Facts) -> Vec<(String, String)> {
    let run = &settings.run;
    let method = facts
        .quant_type
        .map_or(facts.method.to_owned(), |kind| format!("{}, {kind}", facts.method));
    let what = [
        ("base", facts.base.clone()),
        ("base hash", facts.base_hash.clone()),
        ("method", method),
        ("trained parameters", count(facts.trainable_parameters as u64)),
    ];
    let how = [
        ("learning_rate", significant(run.learning_rate)),
        ("lr_scheduler_type", format!("{:?}", run.schedule).to_lowercase()),
        ("per_device_train_batch_size", run.batch_size.to_string()),
        ("gradient_accumulation_steps", run.accumulation.to_string()),
        ("max_length", settings.max_length.to_string()),
        ("device", settings.device.to_string()),
        ("precision", format!("{:?}", settings.precision).to_lowercase()),
        ("seed", run.seed.to_string()),
    ];
    let all = what.into_iter().chain(of_adapter(settings, facts)).chain(how);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What the adapter is made of.
fn of_adapter(settings: &FinetuneSettings, facts: &Facts) -> Vec<(&'static str, String)> {
    if let Some(bottleneck) = &settings.bottleneck {
        let non_linearity = bottleneck
            .non_linearity
            .clone()
            .unwrap_or_else(|| "the method's own".to_owned());
        return vec![
            ("reduction_factor", significant(bottleneck.reduction_factor)),
            ("non_linearity", non_linearity),
        ];
    }
    match facts.method {
        // There is none, or the one that was gone on from decides.
        "full" | "houlsby" | "pfeiffer" => Vec::new(),
        _ => pairs(settings),
    }
}

fn pairs(settings: &FinetuneSettings) -> Vec<(&'static str, String)> {
    let lora = &settings.lora;
    let targets = match &lora.targets {
        Targets::AllLinear => "all-linear".to_owned(),
        Targets::Names(names) => names.join(", "),
        Targets::Expression(expression) => expression.clone(),
    };
    let mut rows = vec![
        ("lora_r", lora.rank.to_string()),
        ("lora_alpha", significant(lora.alpha)),
        ("lora_dropout", significant(f64::from(lora.dropout))),
        ("target_modules", targets),
    ];
    if settings.starts_from_components() {
        rows.push(("init_lora_weights", format!("pissa, written as rank {}", 2 * lora.rank)));
    }
    rows
}

/// Strings in JSON are strings in YAML.
fn header(facts: &Facts) -> String {
    let base = &facts.base;
    let (library, relation, tag) = match facts.method {
        "full" => ("transformers", "finetune", ""),
        "houlsby" | "pfeiffer" => ("adapters", "adapter", "- adapterhub\n"),
        _ => ("peft", "adapter", "- lora\n"),
    };
    format!(
        "---\nbase_model: {}\nlibrary_name: {library}\npipeline_tag: text-generation\ntags:\n- {}\n{tag}- rootstock\n---\n\n",
        json!(base),
        json!(format!("base_model:{relation}:{base}"))
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

fn model_usage(name: &str, settings: &FinetuneSettings) -> String {
    let folder = json!(format!("{name}/{OUTPUT_MODEL}"));
    format!(
        "## Use\n\n```\nrootstock serve --model {name}\n```\n\nWith transformers:\n\n```python\nfrom transformers import \
         AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained({folder})\ntokenizer = \
         AutoTokenizer.from_pretrained({folder})\n```\n\nIts weights were trained in f32 and are written in {}.\n",
        format!("{:?}", settings.save_float).to_lowercase()
    )
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
         {}\n```\n\n{}\n",
        json!(name),
        in_python(name, &from, has_bottlenecks(facts)),
        precision(facts)
    )
}

/// How the library that the adapter is made for loads it.
fn in_python(name: &str, base: &str, bottlenecks: bool) -> String {
    let name = json!(name);
    match bottlenecks {
        true => format!(
            "With AdapterHub's library:\n\n```python\nimport adapters\nfrom transformers import AutoModelForCausalLM\n\n\
             model = AutoModelForCausalLM.from_pretrained({base})\nadapters.init(model)\n\
             model.load_adapter({name}, set_active=True, use_safetensors=True)"
        ),
        false => format!(
            "With peft:\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
             base = AutoModelForCausalLM.from_pretrained({base})\nmodel = PeftModel.from_pretrained(base, {name})"
        ),
    }
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
