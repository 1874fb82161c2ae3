//! The outcome for people and for programs: a table, JSON, and who is further away than allowed.

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use rootstock_optimize::divergence::Mean;
use rootstock_report::quantity::bytes;
use rootstock_report::table::aligned_right;
use serde_json::{Map, Value, json};

use super::contest::Row;
use crate::settings::CompareSettings;

/// The whole outcome.
pub struct Report {
    /// The source first.
    pub(super) rows: Vec<Row>,
    /// What they were compared on, and how.
    pub(super) head: Map<String, Value>,
    max_kl: Option<f64>,
}

impl Report {
    /// The rows, in the order of the table.
    pub fn new(settings: &CompareSettings, rows: Vec<Row>) -> Self {
        let tokens = rows.iter().find_map(|row| row.comparison).map(|found| found.tokens);
        let activations = settings.activations.to_possible_value();
        let facts = [
            ("text", json!(settings.text.display().to_string())),
            ("tokens", json!(tokens)),
            ("length", json!(settings.cut.length)),
            (
                "activations",
                json!(activations.map(|value| value.get_name().to_owned())),
            ),
            ("threads", json!(settings.threads)),
            ("source", json!(settings.source.name)),
        ];
        Self {
            rows,
            head: facts
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
            max_kl: settings.max_kl,
        }
    }

    /// Everything, for programs. Of what was not measured there is null.
    pub fn json(&self) -> Value {
        let mut object = self.head.clone();
        object.insert("models".to_owned(), self.rows.iter().map(row_json).collect());
        object.insert("failures".to_owned(), json!(self.failures()));
        Value::Object(object)
    }

    /// A line per row, under a line that says what was measured on what.
    pub fn table(&self) -> String {
        aligned_right(&self.cells())
    }

    /// The cells of the table, its header first.
    pub(super) fn cells(&self) -> Vec<Vec<String>> {
        let header = [
            "model",
            "perplexity",
            "±",
            "KL",
            "±",
            "KL p99",
            "top-1",
            "size",
            "bits",
            "prefill t/s",
            "decode t/s",
        ];
        let header = header.map(str::to_owned).to_vec();
        std::iter::once(header).chain(self.rows.iter().map(row_cells)).collect()
    }

    /// Succeeds if none is further from the source than it may be.
    ///
    /// # Errors
    /// One is; the message says which and by how much.
    pub fn verdict(&self) -> Result<()> {
        let failures = self.failures();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(anyhow!(failures.join("\n       "))),
        }
    }

    fn failures(&self) -> Vec<String> {
        let too_far = |row: &Row| {
            let (most, kl) = (self.max_kl?, row.comparison?.kl.value);
            (kl > most).then(|| format!("the KL of {} is {kl:.6}, above {most}", row.entry.name))
        };
        self.rows.iter().filter_map(too_far).collect()
    }
}

fn row_cells(row: &Row) -> Vec<String> {
    let (entry, compared) = (&row.entry, row.comparison.as_ref());
    let measured = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rate = |rate: Option<f64>| measured(rate.map(|rate| format!("{rate:.1}")));
    vec![
        entry.name.clone(),
        format!("{:.4}", row.perplexity.value),
        format!("{:.4}", row.perplexity.standard_error),
        measured(compared.map(|found| format!("{:.6}", found.kl.value))),
        measured(compared.map(|found| format!("{:.6}", found.kl.standard_error))),
        measured(compared.map(|found| format!("{:.5}", found.kl_p99))),
        measured(compared.map(|found| format!("{:.2}%", 100.0 * found.top_agreement))),
        bytes(entry.bytes),
        format!("{:.2}", entry.bits_per_weight),
        rate(entry.speed.map(|speed| speed.prefill)),
        rate(entry.speed.map(|speed| speed.decode)),
    ]
}

fn row_json(row: &Row) -> Value {
    let entry = &row.entry;
    let kl = row.comparison.map(|found| {
        json!({
            "mean": found.kl.value,
            "standard_error": found.kl.standard_error,
            "p99": found.kl_p99,
            "max": found.kl_max,
        })
    });
    let speed = entry
        .speed
        .map(|speed| json!({"prefill": speed.prefill, "decode": speed.decode}));
    json!({
        "name": entry.name,
        "model": entry.model,
        "adapter": entry.adapter,
        "perplexity": mean_json(row.perplexity),
        "kl": kl,
        "top_1_agreement": row.comparison.map(|found| found.top_agreement),
        "logprob_distance": row.comparison.map(|found| found.logprob_distance),
        "bytes": entry.bytes,
        "bits_per_weight": entry.bits_per_weight,
        "tokens_per_second": speed,
    })
}

fn mean_json(mean: Mean) -> Value {
    json!({"value": mean.value, "standard_error": mean.standard_error})
}
