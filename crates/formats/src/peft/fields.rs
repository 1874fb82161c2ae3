//! The fields of `adapter_config.json` by name, and what each may hold.
//! Defaults and meanings are those of peft's `LoraConfig` (0.21).

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ConfigError;
use super::pattern::{LayerFilter, ModuleSet, PatternMap, Patterns};
use crate::FormatError;

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Read into the configuration, with checks of its own.
    Read,
    /// Anything: it does not enter what inference computes.
    Informative,
    /// Not supported: null, false or empty.
    Off,
    /// Not supported, and an empty value would switch it on with its defaults: null or false.
    OffNotEmpty,
}

const FIELDS: [(&str, Rule); 43] = [
    ("peft_type", Rule::Read),
    ("base_model_name_or_path", Rule::Read),
    ("rootstock_base_hash", Rule::Read),
    ("r", Rule::Read),
    ("lora_alpha", Rule::Read),
    ("rank_pattern", Rule::Read),
    ("alpha_pattern", Rule::Read),
    ("use_rslora", Rule::Read),
    ("target_modules", Rule::Read),
    ("exclude_modules", Rule::Read),
    ("layers_to_transform", Rule::Read),
    ("layers_pattern", Rule::Read),
    ("bias", Rule::Read),
    ("init_lora_weights", Rule::Read),
    // Where it came from.
    ("peft_version", Rule::Informative),
    ("revision", Rule::Informative),
    ("task_type", Rule::Informative),
    ("auto_mapping", Rule::Informative),
    // Training only; peft itself ignores a stored runtime_config.
    ("inference_mode", Rule::Informative),
    ("lora_dropout", Rule::Informative),
    ("runtime_config", Rule::Informative),
    // Parameters of what is off: they act only with use_qalora and megatron_config.
    ("qalora_group_size", Rule::Informative),
    ("megatron_core", Rule::Informative),
    ("use_dora", Rule::Off),
    ("use_qalora", Rule::Off),
    ("fan_in_fan_out", Rule::Off),
    ("lora_bias", Rule::Off),
    ("modules_to_save", Rule::Off),
    ("trainable_token_indices", Rule::Off),
    ("target_parameters", Rule::Off),
    ("layer_replication", Rule::Off),
    ("alora_invocation_tokens", Rule::Off),
    ("ensure_weight_tying", Rule::Off),
    ("megatron_config", Rule::Off),
    // Initialisations that change the base or the ranks.
    ("loftq_config", Rule::Off),
    ("eva_config", Rule::Off),
    ("corda_config", Rule::Off),
    ("lora_ga_config", Rule::Off),
    ("use_bdlora", Rule::OffNotEmpty),
    ("arrow_config", Rule::OffNotEmpty),
    ("kasa_config", Rule::OffNotEmpty),
    ("velora_config", Rule::OffNotEmpty),
    ("monteclora_config", Rule::OffNotEmpty),
];

/// Values of `init_lora_weights` that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract from it.
const HARMLESS_INITS: [&str; 4] = ["true", "false", "\"gaussian\"", "\"orthogonal\""];

/// The file's fields in their order, values unparsed.
pub(super) struct Fields<'a> {
    entries: Vec<(String, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, FormatError> {
        let entries: Ordered<&'a RawValue> = serde_json::from_slice(json)
            .map_err(|error| FormatError::malformed("adapter_config.json", "a JSON object", error))?;
        Ok(Self { entries: entries.0 })
    }

    /// First of all: the fields of another method mean something else.
    pub(super) fn check_type(&self) -> Result<(), ConfigError> {
        match self.raw("peft_type") {
            Some("\"LORA\"") => Ok(()),
            Some(other) => Err(ConfigError::PeftType(other.chars().take(60).collect())),
            None => Err(ConfigError::PeftType("no value".to_owned())),
        }
    }

    pub(super) fn check_names(&self) -> Result<(), FormatError> {
        for (name, raw) in &self.entries {
            let raw = raw.get();
            let known = FIELDS.iter().find(|(known, _)| known == name).map(|(_, rule)| *rule);
            let (accepted, supported) = match known {
                Some(Rule::Read | Rule::Informative) => (true, ""),
                Some(Rule::Off) => (is_off(raw) || is_empty(raw), "null, false or empty"),
                Some(Rule::OffNotEmpty) => (is_off(raw), "null or false"),
                None => (
                    is_off(raw) || is_empty(raw),
                    "null, false or empty, for a field that is not known",
                ),
            };
            if !accepted {
                return Err(FormatError::unsupported(name, raw, supported));
            }
        }
        Ok(())
    }

    /// The fields that must hold one of a few values.
    pub(super) fn check_values(&self) -> Result<(), FormatError> {
        match self.raw("bias") {
            None | Some("null" | "\"none\"") => {}
            Some(other) => return Err(FormatError::unsupported("bias", other, "\"none\"")),
        }
        match self.raw("init_lora_weights") {
            None | Some("null") => Ok(()),
            Some(init) if HARMLESS_INITS.contains(&init) => Ok(()),
            Some(other) => Err(FormatError::unsupported(
                "init_lora_weights",
                other,
                HARMLESS_INITS.join(", "),
            )),
        }
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        let entry = self.entries.iter().find(|(known, _)| known == name);
        entry.map(|(_, raw)| raw.get())
    }

    /// The value of `name`; `None` if absent or null.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, FormatError> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw).map_err(|_| FormatError::malformed(name, expected, raw))
    }

    pub(super) fn rank(&self, default: usize) -> Result<usize, FormatError> {
        match self.read("r", "a positive integer")? {
            Some(0) => Err(FormatError::malformed("r", "a positive integer", 0)),
            Some(rank) => Ok(rank),
            None => Ok(default),
        }
    }

    pub(super) fn base_hash(&self) -> Result<Option<[u8; 32]>, FormatError> {
        let (name, expected) = ("rootstock_base_hash", "64 hexadecimal digits");
        let Some(text) = self.read::<String>(name, expected)? else {
            return Ok(None);
        };
        let hash =
            blake3::Hash::from_hex(text.as_bytes()).map_err(|_| FormatError::malformed(name, expected, &text))?;
        Ok(Some(hash.into()))
    }

    /// A list of module names, a regular expression or "all-linear"; `None` for null and for an empty list or string.
    pub(super) fn modules(&self, name: &str, patterns: &mut Patterns) -> Result<Option<ModuleSet>, FormatError> {
        let value = self.read::<OneOrMany<String>>(name, "a string or a list of strings")?;
        Ok(match value {
            None => None,
            Some(OneOrMany::One(text)) if text.is_empty() => None,
            Some(OneOrMany::One(text)) if text.eq_ignore_ascii_case("all-linear") && name == "target_modules" => {
                Some(ModuleSet::AllLinear)
            }
            Some(OneOrMany::One(text)) => Some(ModuleSet::Matching(patterns.full_match(name, &text)?)),
            Some(OneOrMany::Many(names)) if names.is_empty() => None,
            Some(OneOrMany::Many(names)) => Some(ModuleSet::Named(names.into_iter().collect())),
        })
    }

    pub(super) fn layers(&self, patterns: &mut Patterns) -> Result<Option<LayerFilter>, FormatError> {
        let layers = match self.read::<OneOrMany<u64>>("layers_to_transform", "a layer index or a list of them")? {
            Some(OneOrMany::One(layer)) => vec![layer],
            Some(OneOrMany::Many(layers)) => layers,
            None => Vec::new(),
        };
        let name = "layers_pattern";
        let stacks: Vec<String> = match self.read::<OneOrMany<String>>(name, "a string or a list of strings")? {
            Some(OneOrMany::One(stack)) if stack.is_empty() => Vec::new(),
            Some(OneOrMany::One(stack)) => vec![stack],
            Some(OneOrMany::Many(stacks)) => stacks,
            None => Vec::new(),
        };
        match (layers.is_empty(), stacks.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Err(FormatError::malformed(
                name,
                "null without layers_to_transform",
                stacks.join(", "),
            )),
            (false, _) => LayerFilter::new(layers, &stacks, patterns).map(Some),
        }
    }

    pub(super) fn rank_pattern(&self, patterns: &mut Patterns) -> Result<PatternMap<usize>, FormatError> {
        let (name, expected) = ("rank_pattern", "positive integers by module pattern");
        let map = self.pattern_map(name, expected, patterns)?;
        if map.values().any(|&rank| rank == 0) {
            return Err(FormatError::malformed(name, expected, 0));
        }
        Ok(map)
    }

    pub(super) fn pattern_map<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &str,
        patterns: &mut Patterns,
    ) -> Result<PatternMap<T>, FormatError> {
        let entries = self
            .read::<Ordered<T>>(name, expected)?
            .map_or_else(Vec::new, |map| map.0);
        PatternMap::new(name, entries, patterns)
    }
}

fn is_off(raw: &str) -> bool {
    matches!(raw, "null" | "false")
}

fn is_empty(raw: &str) -> bool {
    let inside = |open, close| raw.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    let brackets = inside('[', ']').or_else(|| inside('{', '}'));
    raw == "\"\"" || brackets.is_some_and(|inside| inside.trim().is_empty())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A JSON object in the order of the file, which decides between overlapping patterns; a repeated key is an error.
struct Ordered<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OrderedVisitor(std::marker::PhantomData))
    }
}

struct OrderedVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrderedVisitor<T> {
    type Value = Ordered<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
        let mut entries = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key {key:?} twice")));
            }
            entries.push((key, value));
        }
        Ok(Ordered(entries))
    }
}
