//! What `merge` did, for people, for programs and as a model card.

use std::fmt::Write as _;

use rootstock_model::adapter::is_gguf;
use rootstock_optimize::merge::Change;
use rootstock_report::quantity::{bytes, significant};
use serde_json::{Value, json};

use super::written::Written;
use crate::settings::MergeSettings;

/// What was done.
pub struct Summary<'a> {
    pub settings: &'a MergeSettings,
    pub written: Written,
    pub changes: Vec<Change>,
}

impl Summary<'_> {
    pub fn json(&self) -> Value {
        let adapters = self.settings.adapters.iter();
        let changed = self.changes.iter();
        json!({
            "model": self.settings.model.name,
            "adapters": adapters.map(|(adapter, weight)| json!({"name": adapter.name, "weight": weight})).collect::<Vec<_>>(),
            "output": self.settings.output.path(),
            "bytes": self.written.bytes,
            "tensors": self.written.tensors,
            "changed": changed.map(|change| json!({
                "tensor": change.tensor,
                "delta_norm": change.delta,
                "base_norm": change.base,
                "relative": change.relative(),
            })).collect::<Vec<_>>(),
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {}, {} of its tensors changed\n",
            self.settings.output.path().display(),
            bytes(self.written.bytes),
            self.changes.len()
        );
        let mut sorted: Vec<_> = self
            .changes
            .iter()
            .filter_map(|change| Some((change.relative()?, change)))
            .collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (relative, change) in sorted.iter().take(LARGEST) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {}: {} % of its length",
                change.tensor,
                significant(100.0 * relative)
            );
        }
        text
    }
}

/// Changes that are shown to people.
const LARGEST: usize = 3;

/// The model card of a folder.
pub fn card(settings: &MergeSettings) -> String {
    let base = &settings.model.name;
    let name = settings.output.path().file_name().unwrap_or_default().to_string_lossy();
    let mut card = format!(
        "---\nbase_model: {}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- merge\n- rootstock\n---\n\n# {name}\n\n{base} \
         with these adapters in its weights, merged with rootstock {} ({:?}).\n\n| adapter | weight |\n|---|---|\n",
        json!(base),
        env!("CARGO_PKG_VERSION"),
        settings.blend,
    );
    for (adapter, weight) in &settings.adapters {
        let _ = writeln!(card, "| {} | {weight} |", adapter.name);
    }
    if is_gguf(&settings.model.path) {
        card.push_str("\nThe base is a GGUF file: where that is quantized, its weights were decoded and stay what rounding has made of them.\n");
    }
    card
}
