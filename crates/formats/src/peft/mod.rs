//! PEFT's `adapter_config.json`: which modules an adapter changes, at which rank and scale, with peft's own matching rules.
//! Every field is known by name or refused; nothing that could change the numbers is skipped over.

mod fields;
mod pattern;
mod table;
#[cfg(test)]
mod tests;

use fields::Fields;
use pattern::{LayerFilter, ModuleSet, PatternMap, Patterns};
pub use table::{BaseUnder, FIELDS, Field, INITIALISATIONS, Initialisation, Rule};

use crate::FormatError;

/// peft's default for `r` and for `lora_alpha`.
const DEFAULT_RANK: usize = 8;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another method than LoRA.
    #[error("peft_type: {0} is not supported (supported: \"LORA\")")]
    PeftType(String),
    /// [`FormatError::Malformed`]: not JSON, or a field of the wrong type. [`FormatError::Unsupported`]: a field that is not
    /// known and not empty, or one whose value changes the numbers in a way this build does not implement.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Which biases of the base were trained and are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedBiases {
    /// None.
    None,
    /// Those of the targeted modules.
    Targeted,
    /// All of the model's.
    All,
}

/// A base that is not the one the adapter's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBase {
    /// The value of `init_lora_weights`.
    pub initialisation: String,
    /// The initial pairs were subtracted from it, so that the initial adapter tells the difference.
    pub by_initial_pair: bool,
}

/// What a module of the base is to peft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear map other than the output layer.
    Linear,
    /// The output layer.
    Output,
    /// An embedding.
    Embedding,
}

/// A LoRA configuration that this build serves in full.
#[derive(Debug)]
pub struct AdapterConfig {
    /// `base_model_name_or_path`; the same base has many names.
    pub base_model: Option<String>,
    /// `rootstock_base_hash`, our own optional field: BLAKE3 of the base model's file.
    pub base_hash: Option<[u8; 32]>,
    /// `use_dora`: every pair has a magnitude.
    pub dora: bool,
    /// `lora_bias`: lora_B has a bias.
    pub delta_bias: bool,
    /// `bias`.
    pub biases: TrainedBiases,
    /// `ensure_weight_tying`: where the base ties embedding and output layer, they change together.
    pub keeps_ties: bool,
    /// `fan_in_fan_out`: the base stores the maps that are targeted as Conv1D, inputs outermost.
    pub fan_in_fan_out: bool,
    /// What `init_lora_weights` did to the base, if it did anything.
    pub changed_base: Option<ChangedBase>,
    rank: usize,
    alpha: f64,
    rank_pattern: PatternMap<usize>,
    alpha_pattern: PatternMap<f64>,
    rank_stabilized: bool,
    targets: ModuleSet,
    saved: Vec<String>,
    excluded: Option<ModuleSet>,
    layers: Option<LayerFilter>,
}

impl AdapterConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field, what it holds and what would be accepted.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let fields = Fields::parse(json)?;
        fields.check_type()?;
        fields.check_names()?;
        Ok(Self::from_fields(&fields)?)
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self, FormatError> {
        let mut patterns = Patterns::default();
        let layers = fields.layers(&mut patterns)?;
        let targets = fields.modules("target_modules", &mut patterns)?.ok_or_else(|| {
            FormatError::malformed(
                "target_modules",
                "a list of names, a regular expression or \"all-linear\"",
                "null",
            )
        })?;
        if layers.is_some() && !targets.is_list() {
            let expected = "null where target_modules is not a list";
            return Err(FormatError::malformed("layers_to_transform", expected, "layers"));
        }
        Ok(Self {
            base_model: fields.read("base_model_name_or_path", "a string")?,
            base_hash: fields.base_hash()?,
            rank: fields.rank(DEFAULT_RANK)?,
            alpha: fields.read("lora_alpha", "a number")?.unwrap_or(DEFAULT_RANK as f64),
            rank_pattern: fields.rank_pattern(&mut patterns)?,
            alpha_pattern: fields.pattern_map("alpha_pattern", "numbers by module pattern", &mut patterns)?,
            rank_stabilized: fields.flag("use_rslora")?,
            dora: fields.flag("use_dora")?,
            delta_bias: fields.flag("lora_bias")?,
            biases: fields.trained_biases()?,
            keeps_ties: fields.flag("ensure_weight_tying")?,
            fan_in_fan_out: fields.flag("fan_in_fan_out")?,
            changed_base: fields.changed_base()?,
            targets,
            saved: fields.saved()?,
            excluded: fields.modules("exclude_modules", &mut patterns)?,
            layers,
        })
    }

    /// Whether the adapter has a pair on `module`, by its full path as transformers names it:
    /// `model.layers.3.mlp.down_proj`.
    pub fn targets(&self, module: &str, kind: ModuleKind) -> bool {
        let excluded = self
            .excluded
            .as_ref()
            .is_some_and(|excluded| excluded.contains(module, kind));
        if excluded || self.saves_over(module) {
            return false;
        }
        match &self.layers {
            // peft does not ask for the layer of a module that is listed by its full path.
            Some(layers) => {
                self.targets.lists(module) || (self.targets.contains(module, kind) && layers.contains_layer_of(module))
            }
            None => self.targets.contains(module, kind),
        }
    }

    /// Whether `modules_to_save` names `module` or a module that it is part of; peft compares the ends of paths.
    pub fn saves(&self, module: &str) -> bool {
        self.saved.iter().any(|name| Self::saved_name_means(name, module))
    }

    /// Whether `name` in `modules_to_save` means `module` or a module that it is part of.
    pub fn saved_name_means(name: &str, module: &str) -> bool {
        let mut ends = module.match_indices('.').map(|(dot, _)| dot).chain([module.len()]);
        ends.any(|end| module[..end].ends_with(name))
    }

    /// The entries of `modules_to_save`.
    pub fn saved_names(&self) -> &[String] {
        &self.saved
    }

    /// Whether peft puts no pair on `module` because of `modules_to_save`: some whole names in its path are an entry.
    fn saves_over(&self, module: &str) -> bool {
        let within = |name: &String| {
            let mut found = module.match_indices(name.as_str());
            found.any(|(start, _)| {
                let (before, after) = (&module[..start], &module[start + name.len()..]);
                (before.is_empty() || before.ends_with('.')) && (after.is_empty() || after.starts_with('.'))
            })
        };
        self.saved.iter().any(within)
    }

    /// The rank of the pair on `module`.
    pub fn rank_for(&self, module: &str) -> usize {
        self.rank_pattern.get(module).copied().unwrap_or(self.rank)
    }

    /// The factor on the delta of `module`: alpha / r, with rsLoRA alpha / sqrt(r) (Kalajdzievski, 2023).
    pub fn scale_for(&self, module: &str) -> f32 {
        let rank = self.rank_for(module) as f64;
        let alpha = self.alpha_pattern.get(module).copied().unwrap_or(self.alpha);
        let divisor = if self.rank_stabilized { rank.sqrt() } else { rank };
        (alpha / divisor) as f32
    }

    /// Whether `target_modules` names nothing at all, not even by an expression.
    pub fn targets_nothing(&self) -> bool {
        self.target_names().is_some_and(|mut names| names.next().is_none())
    }

    /// The names of `target_modules`, if it is a list.
    pub fn target_names(&self) -> Option<impl Iterator<Item = &str>> {
        self.targets.names()
    }

    /// The layers of `layers_to_transform`, if it is set.
    pub fn target_layers(&self) -> Option<&[u64]> {
        self.layers.as_ref().map(LayerFilter::layers)
    }
}

/// Whether the `target_modules` entry `name` means `module`: its full path or the end of it after a dot.
pub fn names_module(name: &str, module: &str) -> bool {
    match module.strip_suffix(name) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}
