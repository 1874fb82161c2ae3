//! What the modules of a base are called in the adapters of its family, as tables: transformers' module paths for PEFT
//! folders, llama.cpp's tensor names for GGUF files. A family with other names is another table.

use crate::{NormSite, Projection};

/// A normalisation of a layer: its name there, and its site by the layer's index.
type NormName = (&'static str, fn(usize) -> NormSite);

/// Names of one family in one kind of adapter.
pub(super) struct ModuleNames {
    /// [`ArchSpec::family`](crate::ArchSpec::family) of the bases they are for.
    pub(super) families: &'static [&'static str],
    /// What comes before the layer's index.
    pub(super) stack: &'static str,
    /// Linear maps of a layer. One that holds several projections has their outputs one after another.
    pub(super) maps: &'static [(&'static str, &'static [Projection])],
    /// Normalisations of a layer.
    pub(super) norms: &'static [NormName],
    pub(super) final_norm: &'static str,
    pub(super) embedding: &'static str,
    pub(super) output: &'static str,
    /// Learned positions, which no adapter can change here.
    pub(super) positions: Option<&'static str>,
    /// The maps of layers are stored `[inputs, outputs]` (GPT-2's Conv1D).
    pub(super) conv1d: bool,
    /// Added to every stored factor of a normalisation (Gemma stores them minus one).
    pub(super) norm_offset: f32,
}

const SEPARATE: &[(&str, &[Projection])] = &[
    ("self_attn.q_proj", &[Projection::Query]),
    ("self_attn.k_proj", &[Projection::Key]),
    ("self_attn.v_proj", &[Projection::Value]),
    ("self_attn.o_proj", &[Projection::Output]),
    ("mlp.gate_proj", &[Projection::Gate]),
    ("mlp.up_proj", &[Projection::Up]),
    ("mlp.down_proj", &[Projection::Down]),
];
const FUSED: &[(&str, &[Projection])] = &[
    (
        "self_attn.qkv_proj",
        &[Projection::Query, Projection::Key, Projection::Value],
    ),
    ("self_attn.o_proj", &[Projection::Output]),
    ("mlp.gate_up_proj", &[Projection::Gate, Projection::Up]),
    ("mlp.down_proj", &[Projection::Down]),
];
const GPT2: &[(&str, &[Projection])] = &[
    ("attn.c_attn", &[Projection::Query, Projection::Key, Projection::Value]),
    ("attn.c_proj", &[Projection::Output]),
    ("mlp.c_fc", &[Projection::Up]),
    ("mlp.c_proj", &[Projection::Down]),
];

const PRE_NORMS: &[NormName] = &[
    ("input_layernorm", NormSite::Attention),
    ("self_attn.q_norm", NormSite::Query),
    ("self_attn.k_norm", NormSite::Key),
    ("post_attention_layernorm", NormSite::FeedForward),
];
const GEMMA_NORMS: &[NormName] = &[
    ("input_layernorm", NormSite::Attention),
    ("self_attn.q_norm", NormSite::Query),
    ("self_attn.k_norm", NormSite::Key),
    ("post_attention_layernorm", NormSite::PostAttention),
    ("pre_feedforward_layernorm", NormSite::FeedForward),
    ("post_feedforward_layernorm", NormSite::PostFeedForward),
];
const GPT2_NORMS: &[NormName] = &[("ln_1", NormSite::Attention), ("ln_2", NormSite::FeedForward)];

const LLAMA_LIKE: ModuleNames = ModuleNames {
    families: &["llama", "mistral", "qwen2", "qwen3", "smollm3"],
    stack: "model.layers",
    maps: SEPARATE,
    norms: PRE_NORMS,
    final_norm: "model.norm",
    embedding: "model.embed_tokens",
    output: "lm_head",
    positions: None,
    conv1d: false,
    norm_offset: 0.0,
};

const GEMMA: ModuleNames = ModuleNames {
    families: &["gemma3", "gemma3_text"],
    norms: GEMMA_NORMS,
    norm_offset: 1.0,
    ..LLAMA_LIKE
};

/// Module paths in transformers. Of several tables for a family the one whose layers an adapter names is meant.
static PEFT: [ModuleNames; 6] = [
    LLAMA_LIKE,
    GEMMA,
    // The text model within one that takes images too, as transformers names it since version 4.52 and before.
    ModuleNames {
        stack: "model.language_model.layers",
        final_norm: "model.language_model.norm",
        embedding: "model.language_model.embed_tokens",
        ..GEMMA
    },
    ModuleNames {
        stack: "language_model.model.layers",
        final_norm: "language_model.model.norm",
        embedding: "language_model.model.embed_tokens",
        output: "language_model.lm_head",
        ..GEMMA
    },
    ModuleNames {
        families: &["phi3"],
        maps: FUSED,
        ..LLAMA_LIKE
    },
    ModuleNames {
        families: &["gpt2"],
        stack: "transformer.h",
        maps: GPT2,
        norms: GPT2_NORMS,
        final_norm: "transformer.ln_f",
        embedding: "transformer.wte",
        positions: Some("transformer.wpe"),
        conv1d: true,
        ..LLAMA_LIKE
    },
];

/// A `general.architecture` of GGUF adapters.
pub(super) struct GgufArchitecture {
    pub(super) name: &'static str,
    pub(super) names: ModuleNames,
    /// Rows of query and key lie in pairs for pairwise rotary, as llama.cpp's converter permutes base and lora_b alike.
    pub(super) interleaved: bool,
    /// llama.cpp's converter takes the transposed base for a transposed pair and writes A and B of every map of a layer in
    /// each other's place, transposed.
    pub(super) turned_by_converter: bool,
}

const GGUF_SEPARATE: &[(&str, &[Projection])] = &[
    ("attn_q", &[Projection::Query]),
    ("attn_k", &[Projection::Key]),
    ("attn_v", &[Projection::Value]),
    ("attn_output", &[Projection::Output]),
    ("ffn_gate", &[Projection::Gate]),
    ("ffn_up", &[Projection::Up]),
    ("ffn_down", &[Projection::Down]),
];

const GGUF_NAMES: ModuleNames = ModuleNames {
    families: &[],
    stack: "blk",
    maps: GGUF_SEPARATE,
    norms: &[],
    final_norm: "output_norm",
    embedding: "token_embd",
    output: "output",
    positions: None,
    conv1d: false,
    norm_offset: 0.0,
};

const PLAIN: GgufArchitecture = GgufArchitecture {
    name: "",
    names: GGUF_NAMES,
    interleaved: false,
    turned_by_converter: false,
};

static GGUF: [GgufArchitecture; 7] = [
    GgufArchitecture {
        name: "llama",
        names: ModuleNames {
            families: &["llama", "mistral"],
            ..GGUF_NAMES
        },
        interleaved: true,
        ..PLAIN
    },
    GgufArchitecture {
        name: "smollm3",
        names: ModuleNames {
            families: &["smollm3"],
            ..GGUF_NAMES
        },
        interleaved: true,
        ..PLAIN
    },
    GgufArchitecture {
        name: "qwen2",
        names: ModuleNames {
            families: &["qwen2"],
            ..GGUF_NAMES
        },
        ..PLAIN
    },
    GgufArchitecture {
        name: "qwen3",
        names: ModuleNames {
            families: &["qwen3"],
            ..GGUF_NAMES
        },
        ..PLAIN
    },
    GgufArchitecture {
        name: "gemma3",
        names: ModuleNames {
            families: &["gemma3", "gemma3_text"],
            ..GGUF_NAMES
        },
        ..PLAIN
    },
    GgufArchitecture {
        name: "phi3",
        names: ModuleNames {
            families: &["phi3"],
            maps: &[
                ("attn_qkv", &[Projection::Query, Projection::Key, Projection::Value]),
                ("attn_output", &[Projection::Output]),
                ("ffn_up", &[Projection::Gate, Projection::Up]),
                ("ffn_down", &[Projection::Down]),
            ],
            ..GGUF_NAMES
        },
        ..PLAIN
    },
    GgufArchitecture {
        name: "gpt2",
        names: ModuleNames {
            families: &["gpt2"],
            maps: &[
                ("attn_qkv", &[Projection::Query, Projection::Key, Projection::Value]),
                ("attn_output", &[Projection::Output]),
                ("ffn_up", &[Projection::Up]),
                ("ffn_down", &[Projection::Down]),
            ],
            positions: Some("position_embd"),
            ..GGUF_NAMES
        },
        turned_by_converter: true,
        ..PLAIN
    },
];

impl ModuleNames {
    /// The names in PEFT folders for a family of bases: those of which `is_used` tells that the adapter names layers so,
    /// else the usual ones.
    pub(super) fn of_family(family: &str, is_used: impl Fn(&str) -> bool) -> Option<&'static Self> {
        let tables = || PEFT.iter().filter(|table| table.families.contains(&family));
        tables().find(|table| is_used(table.stack)).or_else(|| tables().next())
    }
}

impl GgufArchitecture {
    /// Every architecture.
    pub(super) fn all() -> &'static [Self] {
        &GGUF
    }

    /// The architecture that adapters for a family of bases are of.
    pub(super) fn of_family(family: &str) -> Option<&'static Self> {
        Self::all().iter().find(|table| table.names.families.contains(&family))
    }
}
