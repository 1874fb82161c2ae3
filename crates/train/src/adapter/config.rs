//! `adapter_config.json` from settings, field by field as peft writes it.

use rootstock_formats::peft::TrainedBiases;
use rootstock_model::ContentHash;
use serde_json::{Map, Value, json};

/// Which maps get a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear map but the output layer.
    AllLinear,
    /// Modules by name or by the end of their path.
    Names(Vec<String>),
    /// Modules whose whole path matches.
    Expression(String),
}

impl Targets {
    /// As command lines give them: names, or one entry that is `all-linear` or a regular expression.
    pub fn of_arguments(arguments: &[String]) -> Self {
        let plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        match arguments {
            [one] if one.eq_ignore_ascii_case("all-linear") => Self::AllLinear,
            [one] if !plain(one) => Self::Expression(one.clone()),
            names => Self::Names(names.to_vec()),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::AllLinear => json!("all-linear"),
            Self::Names(names) => json!(names),
            Self::Expression(expression) => json!(expression),
        }
    }
}

/// How pairs begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initialisation {
    /// A uniform, B zero: the model begins as the base.
    #[default]
    Default,
    /// A and B from the largest singular values of the frozen weight, which keeps the rest (Meng et al., 2024). Written as a
    /// plain pair of twice the rank, so that it fits the unchanged base.
    Pissa {
        /// Iterations towards them (`pissa_niter_N`); `None` until they are settled.
        iterations: Option<usize>,
    },
}

/// What is trained, in peft's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// `r`
    pub rank: usize,
    /// `lora_alpha`
    pub alpha: f64,
    /// `lora_dropout`
    pub dropout: f32,
    /// `target_modules`
    pub targets: Targets,
    /// `exclude_modules`
    pub excluded: Vec<String>,
    /// `rank_pattern`
    pub rank_pattern: Vec<(String, usize)>,
    /// `alpha_pattern`
    pub alpha_pattern: Vec<(String, f64)>,
    /// `layers_to_transform`
    pub layers: Vec<usize>,
    /// `bias`
    pub biases: TrainedBiases,
    /// `modules_to_save`
    pub saved: Vec<String>,
    /// `use_rslora`
    pub rank_stabilized: bool,
    /// `use_dora`
    pub dora: bool,
    /// `init_lora_weights`
    pub initialisation: Initialisation,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            excluded: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers: Vec::new(),
            biases: TrainedBiases::None,
            saved: Vec::new(),
            rank_stabilized: false,
            dora: false,
            initialisation: Initialisation::Default,
        }
    }
}

/// The configuration that peft would write, and the hash of the base that it belongs to.
pub fn adapter_config(settings: &LoraSettings, base_name: &str, base_hash: ContentHash) -> Value {
    let or_null = |empty: bool, value: Value| if empty { Value::Null } else { value };
    let biases = match settings.biases {
        TrainedBiases::None => "none",
        TrainedBiases::Targeted => "lora_only",
        TrainedBiases::All => "all",
    };
    let ranks: Map<_, _> = settings
        .rank_pattern
        .iter()
        .map(|(key, rank)| (key.clone(), json!(rank)))
        .collect();
    let alphas: Map<_, _> = settings
        .alpha_pattern
        .iter()
        .map(|(key, alpha)| (key.clone(), number(*alpha)))
        .collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "rootstock_base_hash": base_hash.to_string(),
        "r": settings.rank,
        "lora_alpha": number(settings.alpha),
        "lora_dropout": f64::from(settings.dropout),
        "target_modules": settings.targets.value(),
        "exclude_modules": or_null(settings.excluded.is_empty(), json!(settings.excluded)),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "layers_to_transform": or_null(settings.layers.is_empty(), json!(settings.layers)),
        "bias": biases,
        "modules_to_save": or_null(settings.saved.is_empty(), json!(settings.saved)),
        "use_rslora": settings.rank_stabilized,
        "use_dora": settings.dora,
        "init_lora_weights": true,
        "fan_in_fan_out": false,
        "inference_mode": true,
    })
}

/// Whole numbers as integers, as people write them.
pub(super) fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}
