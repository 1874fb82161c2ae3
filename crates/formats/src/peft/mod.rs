//! PEFT's `adapter_config.json`: which modules an adapter changes, at which rank and scale, with peft's own matching rules.
//! Every field is known by name or refused; nothing that could change the numbers is skipped over.

mod fields;
mod pattern;
#[cfg(test)]
mod tests;

use fields::Fields;
use pattern::{LayerFilter, ModuleSet, PatternMap, Patterns};

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

/// A LoRA configuration that this build serves in full.
#[derive(Debug)]
pub struct AdapterConfig {
    /// `base_model_name_or_path`; the same base has many names.
    pub base_model: Option<String>,
    /// `rootstock_base_hash`, our own optional field: BLAKE3 of the base model's file.
    pub base_hash: Option<[u8; 32]>,
    rank: usize,
    alpha: f64,
    rank_pattern: PatternMap<usize>,
    alpha_pattern: PatternMap<f64>,
    rank_stabilized: bool,
    targets: ModuleSet,
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
        fields.check_values()?;
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
            rank_stabilized: fields.read("use_rslora", "a boolean")?.unwrap_or(false),
            targets,
            excluded: fields.modules("exclude_modules", &mut patterns)?,
            layers,
        })
    }

    /// Whether the adapter changes `module`, a linear map of the base other than its output layer, by its full path as
    /// transformers names it: `model.layers.3.mlp.down_proj`.
    pub fn targets(&self, module: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|excluded| excluded.contains(module)) {
            return false;
        }
        match &self.layers {
            // peft does not ask for the layer of a module that is listed by its full path.
            Some(layers) => {
                self.targets.lists(module) || (self.targets.contains(module) && layers.contains_layer_of(module))
            }
            None => self.targets.contains(module),
        }
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
