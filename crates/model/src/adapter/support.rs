//! What of the adapters that people bring is served, converted or refused, from the tables that the readers themselves use.

use rootstock_formats::adapterhub::BOTTLENECK_FIELDS;
use rootstock_formats::peft::{BaseUnder, FIELDS, INITIALISATIONS, Rule};

use super::bottleneck;
use super::names::GgufArchitecture;

/// What becomes of something an adapter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has the effect it has in peft (or in llama.cpp for GGUF files), or has none there either.
    Served,
    /// It is brought into another form with the same effect.
    Converted,
    /// An adapter with it is refused by name.
    Refused,
}

/// One line of the table of what is supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportRow {
    /// What the line belongs to: a file, a field or a kind of change.
    pub group: &'static str,
    /// What it is, as the adapter spells it.
    pub kind: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How, or why not.
    pub note: String,
}

/// What no table of a reader says by itself.
const KINDS: [(&str, &str, Verdict, &str); 26] = [
    (
        "container",
        "adapter_model.safetensors",
        Verdict::Served,
        "F32, F16, BF16",
    ),
    (
        "container",
        "adapter_model.bin, .pt, .pth",
        Verdict::Refused,
        "a pickle can run code",
    ),
    (
        "container",
        "AdapterHub folder: adapter.safetensors",
        Verdict::Served,
        "bottlenecks (Houlsby, Pfeiffer), F32, F16, BF16; pytorch_adapter.bin is a pickle and refused",
    ),
    (
        "container",
        "model_head.safetensors beside it",
        Verdict::Served,
        "the output layer in full, which that library trains too; with_head=False spares the memory",
    ),
    (
        "container",
        "*.gguf",
        Verdict::Served,
        "F32, F16, BF16; by itself or alone in a folder",
    ),
    ("container", "*.gguf of Q8_0", Verdict::Converted, "decoded to F32"),
    (
        "container",
        "rootstock.toml",
        Verdict::Served,
        "defaults for requests; unknown keys are refused",
    ),
    ("module", "linear maps of layers", Verdict::Served, "LoRA, DoRA, rsLoRA"),
    (
        "module",
        "fused maps (phi3, gpt2)",
        Verdict::Converted,
        "one pair for each part, A shared, B cut",
    ),
    (
        "module",
        "text model of a larger one (gemma3)",
        Verdict::Served,
        "model.language_model and language_model.model",
    ),
    (
        "module",
        "output layer",
        Verdict::Served,
        "LoRA and DoRA, also where the base ties it to the embedding",
    ),
    (
        "module",
        "token embedding",
        Verdict::Served,
        "LoRA and DoRA, before the base's embedding scale",
    ),
    (
        "module",
        "learned positions (gpt2 wpe)",
        Verdict::Refused,
        "not a map of tokens",
    ),
    (
        "module",
        "bottlenecks in a sum of adapters",
        Verdict::Refused,
        "not linear: a request has one such adapter, at any factor",
    ),
    (
        "modules_to_save",
        "embedding, output layer, linear maps",
        Verdict::Served,
        "kept in full; Conv1D turned",
    ),
    (
        "modules_to_save",
        "normalisations of layers and heads, the last one",
        Verdict::Served,
        "Gemma's plus one",
    ),
    (
        "modules_to_save",
        "score, classifier and other heads",
        Verdict::Refused,
        "for other tasks than text",
    ),
    (
        "modules_to_save",
        "a resized vocabulary",
        Verdict::Refused,
        "its rows do not fit the base",
    ),
    (
        "tensor",
        "base_layer.weight of embedding or output layer",
        Verdict::Served,
        "replaces the base's as in peft; save_embedding_layers=False spares the memory",
    ),
    (
        "tensor",
        "base_layer.weight with use_dora",
        Verdict::Refused,
        "save with save_embedding_layers=False",
    ),
    (
        "tensor",
        "original_module",
        Verdict::Refused,
        "a leftover of another way to save",
    ),
    ("gguf", "token_embd", Verdict::Converted, "lora_a turned"),
    (
        "gguf",
        "llama and smollm3 query and key rows",
        Verdict::Converted,
        "the converter's permutation undone",
    ),
    (
        "gguf",
        "gpt2 maps as the converter writes them",
        Verdict::Converted,
        "A and B put back; refused if only square maps are there to tell",
    ),
    (
        "gguf",
        "normalisations",
        Verdict::Refused,
        "llama.cpp reads them and does not apply them",
    ),
    ("gguf", "adapter.alora.*", Verdict::Refused, "starts within the prompt"),
];

/// Every line of the table, grouped.
pub fn support() -> Vec<SupportRow> {
    let row = |group, kind: &str, verdict, note: &str| SupportRow {
        group,
        kind: kind.to_owned(),
        verdict,
        note: note.to_owned(),
    };
    let mut rows: Vec<SupportRow> = KINDS
        .iter()
        .map(|&(group, kind, verdict, note)| row(group, kind, verdict, note))
        .collect();
    let methods = [
        ("LORA", Verdict::Served, "with the fields below"),
        ("any other", Verdict::Refused, "IA3, prompt and prefix tuning and so on"),
    ];
    rows.extend(methods.map(|(kind, verdict, note)| row("peft_type", kind, verdict, note)));
    rows.extend(GgufArchitecture::all().iter().map(|architecture| {
        let note = format!("for bases of the family {}", architecture.names.families.join(" or "));
        row("gguf architecture", architecture.name, Verdict::Served, &note)
    }));
    rows.extend(FIELDS.iter().map(|field| {
        let verdict = match field.rule {
            Rule::Read | Rule::Informative => Verdict::Served,
            Rule::Off | Rule::OffNotEmpty => Verdict::Refused,
        };
        row("adapter_config.json", field.name, verdict, field.note)
    }));
    let unknown = "refused by name unless null, false or empty";
    rows.push(row("adapter_config.json", "any other field", Verdict::Refused, unknown));
    rows.push(row(
        "AdapterHub model_type",
        &bottleneck::FAMILIES.join(", "),
        Verdict::Served,
        "others have no bottlenecks in that library, or before a normalisation",
    ));
    rows.extend(BOTTLENECK_FIELDS.iter().map(|field| {
        let verdict = match field.rule {
            Rule::Read | Rule::Informative => Verdict::Served,
            Rule::Off | Rule::OffNotEmpty => Verdict::Refused,
        };
        row("AdapterHub config", field.name, verdict, field.note)
    }));
    rows.extend(bottleneck::NON_LINEARITIES.map(|(name, _)| {
        row(
            "AdapterHub non_linearity",
            name,
            Verdict::Served,
            "between the two maps",
        )
    }));
    rows.extend(INITIALISATIONS.iter().map(|init| {
        let verdict = match init.base {
            BaseUnder::Unchanged => Verdict::Served,
            BaseUnder::LessInitial => Verdict::Converted,
            BaseUnder::Lost => Verdict::Refused,
        };
        row("init_lora_weights", init.value, verdict, init.note)
    }));
    rows
}
