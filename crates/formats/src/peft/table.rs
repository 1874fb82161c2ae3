//! What every field of a LoRA configuration may hold and what becomes of it, as data: the reader checks against these tables
//! and the documentation is made from them. Names, defaults and meanings are those of peft's `LoraConfig` (0.21).

/// A field of `adapter_config.json`.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it may hold.
    pub rule: Rule,
    /// What it means here, or why it is refused.
    pub note: &'static str,
}

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Read into the configuration, with checks of its own.
    Read,
    /// Anything: it does not enter what inference computes.
    Informative,
    /// Not supported: null, false or empty.
    Off,
    /// Not supported, and an empty value would switch it on with its defaults: null or false.
    OffNotEmpty,
}

const fn field(name: &'static str, rule: Rule, note: &'static str) -> Field {
    Field { name, rule, note }
}

/// Every field that is known. One that is not must be null, false or empty.
pub const FIELDS: [Field; 44] = [
    field("peft_type", Rule::Read, "only LORA"),
    field(
        "base_model_name_or_path",
        Rule::Read,
        "shown, not compared: one base has many names",
    ),
    field(
        "rootstock_base_hash",
        Rule::Read,
        "BLAKE3 of the base; another base is refused",
    ),
    field("r", Rule::Read, "up to the server's limit"),
    field("lora_alpha", Rule::Read, "scale alpha / r"),
    field("rank_pattern", Rule::Read, "ranks per module"),
    field("alpha_pattern", Rule::Read, "alphas per module"),
    field("use_rslora", Rule::Read, "scale alpha / sqrt(r)"),
    field(
        "use_dora",
        Rule::Read,
        "DoRA on linear maps, the output layer and embeddings",
    ),
    field(
        "target_modules",
        Rule::Read,
        "a list, a regular expression or all-linear; fused maps and embeddings too",
    ),
    field("exclude_modules", Rule::Read, "a list or a regular expression"),
    field("layers_to_transform", Rule::Read, "with layers_pattern"),
    field("layers_pattern", Rule::Read, "with layers_to_transform"),
    field(
        "bias",
        Rule::Read,
        "none, lora_only, all: trained biases replace the base's",
    ),
    field("lora_bias", Rule::Read, "a bias of lora_B, scaled like it"),
    field(
        "modules_to_save",
        Rule::Read,
        "linear maps, embeddings, the output layer and normalisations",
    ),
    field(
        "ensure_weight_tying",
        Rule::Read,
        "on a base that ties them, embedding and output layer change together",
    ),
    field(
        "fan_in_fan_out",
        Rule::Read,
        "true only for bases with Conv1D (gpt2), where it changes nothing that is stored",
    ),
    field("init_lora_weights", Rule::Read, "see the initialisations"),
    field("peft_version", Rule::Informative, "where the adapter came from"),
    field("revision", Rule::Informative, "where the base came from"),
    field(
        "task_type",
        Rule::Informative,
        "heads of other tasks are refused by their modules_to_save",
    ),
    field("auto_mapping", Rule::Informative, "where the adapter came from"),
    field("inference_mode", Rule::Informative, "training only"),
    field("lora_dropout", Rule::Informative, "training only"),
    field("runtime_config", Rule::Informative, "peft ignores a stored one too"),
    field("qalora_group_size", Rule::Informative, "acts only with use_qalora"),
    field("megatron_core", Rule::Informative, "acts only with megatron_config"),
    field(
        "eva_config",
        Rule::Informative,
        "acts at the start of training; its ranks are in rank_pattern",
    ),
    field(
        "loftq_config",
        Rule::Informative,
        "acts only with init_lora_weights loftq",
    ),
    field(
        "corda_config",
        Rule::Informative,
        "acts only with init_lora_weights corda",
    ),
    field(
        "lora_ga_config",
        Rule::Informative,
        "acts only with init_lora_weights lora_ga",
    ),
    field("use_qalora", Rule::Off, "pools the inputs of lora_A in groups"),
    field(
        "trainable_token_indices",
        Rule::Off,
        "replaces single rows of the embedding",
    ),
    field("target_parameters", Rule::Off, "targets parameters of experts"),
    field("layer_replication", Rule::Off, "makes another architecture of the base"),
    field("alora_invocation_tokens", Rule::Off, "starts within the prompt"),
    field("megatron_config", Rule::Off, "maps split for Megatron"),
    field("use_bdlora", Rule::OffNotEmpty, "block-diagonal pairs"),
    field("arrow_config", Rule::OffNotEmpty, "routes between adapters"),
    field("kasa_config", Rule::OffNotEmpty, "changes the base"),
    field("velora_config", Rule::OffNotEmpty, "stores more than pairs"),
    field("monteclora_config", Rule::OffNotEmpty, "samples its weights"),
    field("invocation_string", Rule::Off, "starts within the prompt"),
];

/// A value of `init_lora_weights`.
#[derive(Debug, Clone, Copy)]
pub struct Initialisation {
    /// The value as JSON spells it; a string stands for any spelling that `covers` accepts.
    pub value: &'static str,
    /// Whether it leaves the base as it is.
    pub base: BaseUnder,
    /// What it does.
    pub note: &'static str,
}

/// What an initialisation does to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseUnder {
    /// Left as it is.
    Unchanged,
    /// The initial pair is subtracted from it; with the initial adapter at hand that can be undone.
    LessInitial,
    /// Changed in a way that the adapter does not tell.
    Lost,
}

const fn init(value: &'static str, base: BaseUnder, note: &'static str) -> Initialisation {
    Initialisation { value, base, note }
}

/// Every value that is known.
pub const INITIALISATIONS: [Initialisation; 11] = [
    init("true", BaseUnder::Unchanged, "lora_B starts at zero"),
    init("false", BaseUnder::Unchanged, "random"),
    init("gaussian", BaseUnder::Unchanged, "lora_B starts at zero"),
    init("orthogonal", BaseUnder::Unchanged, "orthogonal factors"),
    init("eva", BaseUnder::Unchanged, "lora_A from activations"),
    init("mica", BaseUnder::Unchanged, "lora_A starts at zero"),
    init(
        "pissa",
        BaseUnder::LessInitial,
        "PiSSA, pissa_niter_N too; with the initial adapter beside it in a subfolder that ends in _init, else refused",
    ),
    init("olora", BaseUnder::LessInitial, "as pissa"),
    init("corda", BaseUnder::LessInitial, "as pissa"),
    init("lora_ga", BaseUnder::LessInitial, "as pissa"),
    init("loftq", BaseUnder::Lost, "the base was quantized to fit the adapter"),
];

impl Initialisation {
    /// Whether `raw`, the field's JSON, is this value, as peft compares it: names in any case, and PiSSA and CorDA by how
    /// they start.
    pub(super) fn covers(&self, raw: &str) -> bool {
        let Some(name) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return raw == self.value;
        };
        let name = name.to_ascii_lowercase();
        match self.value {
            "true" | "false" => false,
            "pissa" | "corda" => name.starts_with(self.value),
            value => name == value,
        }
    }
}
