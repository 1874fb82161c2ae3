//! The fields of `adapter_config.json` by name, checked against [`FIELDS`] and read with their defaults.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::pattern::{LayerFilter, ModuleSet, PatternMap, Patterns};
use super::table::{BaseUnder, FIELDS, INITIALISATIONS, Rule};
use super::{ChangedBase, ConfigError, TrainedBiases};
use crate::FormatError;

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
            let known = FIELDS.iter().find(|field| field.name == name).map(|field| field.rule);
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

    /// `bias`.
    pub(super) fn trained_biases(&self) -> Result<TrainedBiases, FormatError> {
        match self.raw("bias") {
            None | Some("null" | "\"none\"") => Ok(TrainedBiases::None),
            Some("\"lora_only\"") => Ok(TrainedBiases::Targeted),
            Some("\"all\"") => Ok(TrainedBiases::All),
            Some(other) => {
                let supported = "\"none\", \"lora_only\", \"all\"";
                Err(FormatError::unsupported("bias", other, supported))
            }
        }
    }

    /// `init_lora_weights`, as far as it changes the base.
    pub(super) fn changed_base(&self) -> Result<Option<ChangedBase>, FormatError> {
        let name = "init_lora_weights";
        let Some(raw) = self.raw(name).filter(|&raw| raw != "null") else {
            return Ok(None);
        };
        let changed = |by_initial_pair| {
            let initialisation = raw.trim_matches('"').chars().take(60).collect();
            Some(ChangedBase {
                initialisation,
                by_initial_pair,
            })
        };
        match INITIALISATIONS
            .iter()
            .find(|known| known.covers(raw))
            .map(|known| known.base)
        {
            Some(BaseUnder::Unchanged) => Ok(None),
            Some(BaseUnder::LessInitial) => Ok(changed(true)),
            Some(BaseUnder::Lost) => Ok(changed(false)),
            None => {
                let supported: Vec<_> = INITIALISATIONS.iter().map(|known| known.value).collect();
                Err(FormatError::unsupported(name, raw, supported.join(", ")))
            }
        }
    }

    /// A boolean, false if absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, FormatError> {
        Ok(self.read(name, "a boolean")?.unwrap_or(false))
    }

    /// `modules_to_save`; peft takes a list only.
    pub(super) fn saved(&self) -> Result<Vec<String>, FormatError> {
        let name = "modules_to_save";
        if self.raw(name).is_some_and(|raw| is_off(raw) || is_empty(raw)) {
            return Ok(Vec::new());
        }
        let saved: Vec<String> = self.read(name, "a list of module names")?.unwrap_or_default();
        match saved.iter().any(String::is_empty) {
            true => Err(FormatError::malformed(name, "names", "an empty one")),
            false => Ok(saved),
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

    /// A list of module names, a regular expression or "all-linear"; `None` for null and for what is empty.
    pub(super) fn modules(&self, name: &str, patterns: &mut Patterns) -> Result<Option<ModuleSet>, FormatError> {
        let value = self.read::<OneOrMany<String>>(name, "a string or a list of strings")?;
        Ok(match value {
            None => None,
            Some(OneOrMany::One(text)) if text.is_empty() => None,
            Some(OneOrMany::One(text)) if text.eq_ignore_ascii_case("all-linear") && name == "target_modules" => {
                Some(ModuleSet::AllLinear)
            }
            Some(OneOrMany::One(text)) => Some(ModuleSet::Matching(patterns.full_match(name, &text)?)),
            // peft's way to target nothing.
            Some(OneOrMany::Many(names)) if names.is_empty() && name != "target_modules" => None,
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
