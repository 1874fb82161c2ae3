//! [`ArchSpec`] to config.json, by the same table of families that config.json is read by.

use serde_json::{Map, Value, json};

use super::super::config;
use super::super::family::{FAMILIES, Family, Positions, Windows};
use super::super::fields::Fields;
use super::super::folder::CONFIG;
use super::rope::Rotation;
use crate::checkpoint::{Additions, Refusal};
use crate::{Activation, ArchSpec, AttentionSpec, LayerSpec, Position};

/// How a folder describes a model.
pub(super) struct Described {
    pub(super) family: &'static Family,
    pub(super) config: Map<String, Value>,
    /// What it describes, with additions.
    pub(super) spec: ArchSpec,
}

/// The family and the configuration that describe an architecture, those of its name first. Nothing is taken that would not be
/// read as the same architecture again.
pub(super) fn of(spec: &ArchSpec, additions: Additions) -> Result<Described, Refusal> {
    let mut reason = None;
    for family in FAMILIES.iter().filter(|family| is_named(family, &spec.family)) {
        let spec = with(spec, family, additions);
        match written(family, &spec) {
            Ok(config) => return Ok(Described { family, config, spec }),
            Err(refusal) => reason = reason.or(Some(refusal)),
        }
    }
    Err(reason.unwrap_or_else(|| Refusal::unsupported(format_args!("{:?} has no config.json", spec.family))))
}

/// A folder's own configuration, with additions.
pub(super) fn of_folder(
    config: Map<String, Value>,
    spec: &ArchSpec,
    additions: Additions,
) -> Result<Described, Refusal> {
    let fields = Fields::new(CONFIG, config.clone());
    let family = config::family(&fields)?;
    let changed = with(spec, family, additions);
    let mut config = Config { family, object: config };
    config.object.remove("quantization_config");
    if changed != *spec {
        if let Some(first) = changed.layers.first() {
            config.biases(first);
        }
        config.put("tie_word_embeddings", changed.tied_output);
        let fields = Fields::new(CONFIG, config.object.clone()).spelled(family.aliases, family.defaults);
        if config::spec(&fields, family, usize::MAX)? != changed {
            return Err(unlike(family, "what would be added to the layers of this model"));
        }
    }
    Ok(Described {
        family,
        config: config.object,
        spec: changed,
    })
}

/// An architecture with what is added to it: where a field adds biases to several maps at once, to all of these.
fn with(spec: &ArchSpec, family: &Family, mut additions: Additions) -> ArchSpec {
    for rule in family.biases.iter().filter(|rule| rule.when.is_some()) {
        if rule
            .projections
            .iter()
            .any(|&projection| additions.biases.contains(projection))
        {
            let more = rule.projections.iter();
            additions.biases = more.fold(additions.biases, |biases, &projection| biases.with(projection));
        }
    }
    additions.to(spec)
}

fn unlike(family: &Family, what: &str) -> Refusal {
    let model_type = family.model_type;
    Refusal::unsupported(format_args!(
        "a config.json of model_type {model_type:?} cannot say {what}"
    ))
}

/// Whether GGUF's name of a family can stand for this one: Gemma's names differ, and files of Mistral's say llama.
fn is_named(family: &Family, name: &str) -> bool {
    match name {
        "gemma3" => family.model_type == "gemma3_text",
        "llama" => ["llama", "mistral"].contains(&family.model_type),
        name => family.model_type == name,
    }
}

fn written(family: &'static Family, spec: &ArchSpec) -> Result<Map<String, Value>, Refusal> {
    let unlike = |what: &str| unlike(family, what);
    let first = spec.layers.first().ok_or_else(|| unlike("that there are no layers"))?;
    let mut config = Config {
        family,
        object: Map::new(),
    };
    config.sizes(spec, first);
    config.biases(first);
    config.positions(spec).ok_or_else(|| unlike("which angles rotate"))?;
    config.windows(spec);
    let fields = Fields::new(CONFIG, config.object.clone()).spelled(family.aliases, family.defaults);
    let mut read = config::spec(&fields, family, usize::MAX)?;
    read.family.clone_from(&spec.family);
    if read != *spec {
        return Err(unlike("what the layers of this model are"));
    }
    Ok(config.object)
}

struct Config {
    family: &'static Family,
    object: Map<String, Value>,
}

impl Config {
    /// Sets a field, under the name that the family has for it.
    fn put(&mut self, field: &str, value: impl Into<Value>) {
        let alias = self.family.aliases.iter().find(|(asked, _)| *asked == field);
        let name = alias.map_or(field, |(_, spelled)| spelled);
        self.object.insert(name.to_owned(), value.into());
    }

    fn sizes(&mut self, spec: &ArchSpec, first: &LayerSpec) {
        let AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale,
            ..
        } = first.attention;
        self.put("architectures", json!([self.family.class]));
        self.put("model_type", self.family.model_type);
        self.put("vocab_size", spec.vocab_size);
        self.put("hidden_size", spec.hidden_size);
        self.put("intermediate_size", first.feed_forward.inner_size());
        self.put("num_hidden_layers", spec.layers.len());
        self.put("num_attention_heads", heads);
        let learned = matches!(self.family.positions, Positions::Learned);
        if !learned {
            self.put("num_key_value_heads", kv_heads);
            self.put("head_dim", head_dim);
        }
        self.put("max_position_embeddings", spec.context_length);
        let activation = match first.feed_forward.activation() {
            Activation::Silu => "silu",
            Activation::GeluTanh if learned => "gelu_new",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::Relu => "relu",
        };
        self.put("hidden_act", activation);
        self.put("rms_norm_eps", shortest(spec.norm.epsilon));
        self.put("tie_word_embeddings", spec.tied_output);
        if let Some(field) = self.family.score_width {
            self.put(field, (1.0 / f64::from(scale).powi(2)).round() as u64);
        }
    }

    fn biases(&mut self, first: &LayerSpec) {
        for rule in self.family.biases {
            let all = rule
                .projections
                .iter()
                .all(|&projection| first.biases.contains(projection));
            if let Some(field) = rule.when {
                self.put(field, all);
            }
        }
    }

    /// `None` for angles that the fields cannot state.
    fn positions(&mut self, spec: &ArchSpec) -> Option<()> {
        let rotation = |slides: bool| {
            let layers = spec.layers.iter().map(|layer| &layer.attention);
            let mut layers =
                layers.filter(|layer| layer.window.is_some() == slides && layer.position != Position::None);
            layers.next().map(|layer| (&layer.position, layer.head_dim))
        };
        let context = spec.context_length;
        match &self.family.positions {
            Positions::Learned => {}
            Positions::Rotary(rule) => {
                let (position, head_dim) = rotation(false).or_else(|| rotation(true))?;
                let rotation = Rotation::of(position, head_dim, rule)?;
                self.object.extend(rotation.fields("rope_theta", context));
            }
            Positions::RotaryByWindow { full, sliding } => {
                if let Some((position, head_dim)) = rotation(false) {
                    let rotation = Rotation::of(position, head_dim, full)?;
                    self.object.extend(rotation.fields("rope_theta", context));
                }
                if let Some((position, head_dim)) = rotation(true) {
                    let base = Rotation::of(position, head_dim, sliding)?.plain_base()?;
                    self.put("rope_local_base_freq", base);
                }
            }
        }
        Some(())
    }

    fn windows(&mut self, spec: &ArchSpec) {
        let windows = || spec.layers.iter().map(|layer| layer.attention.window);
        let window = windows().flatten().next();
        let kinds = windows().map(|window| match window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        });
        let kinds = kinds.collect::<Vec<_>>();
        match self.family.windows {
            Windows::Never => {}
            Windows::Every => self.put("sliding_window", window),
            Windows::Interleaved => {
                self.put("sliding_window", window);
                self.put("layer_types", kinds);
            }
            Windows::FromLayer | Windows::WithoutRotary => {
                self.put("use_sliding_window", window.is_some());
                self.put("sliding_window", window);
                self.put("layer_types", kinds);
            }
        }
        if self.family.windows == Windows::WithoutRotary {
            let rotates = |layer: &LayerSpec| u8::from(layer.attention.position != Position::None);
            let rotates: Vec<u8> = spec.layers.iter().map(rotates).collect();
            self.put("no_rope_layers", rotates);
        }
    }
}

/// The shortest decimal that is this number in single precision.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}
