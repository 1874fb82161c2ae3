//! [`ArchSpec`] to the keys of a GGUF file, by the same table of families that they are read by.

use rootstock_formats::DType;
use rootstock_formats::gguf::{NewTensor, Value};

use super::super::family::{Family, FeedForwardLayout, Positions, Windows};
use super::super::rotary::{DEFAULT_BASE, FACTORS};
use crate::checkpoint::Refusal;
use crate::checkpoint::rotary::{base_of, plain_angles};
use crate::{ArchSpec, FeedForward, NormKind, Position};

/// What is said of an architecture.
pub(super) struct Said {
    pub(super) family: &'static Family,
    pub(super) keys: Vec<(String, Value)>,
    pub(super) constants: Vec<(NewTensor, Vec<u8>)>,
}

/// A rotary embedding as keys can state it.
struct Rotation<'a> {
    base: f64,
    /// What all angles are divided by.
    divisor: f64,
    /// What the angle of each pair is divided by.
    factors: Option<Vec<f32>>,
    angles: &'a [f32],
}

/// The family and the keys that describe an architecture.
///
/// # Errors
/// What no GGUF file of that family says.
pub(super) fn of(spec: &ArchSpec) -> Result<Said, Refusal> {
    let name = match spec.family.as_str() {
        "mistral" => "llama",
        "gemma3_text" => "gemma3",
        name => name,
    };
    let family = Family::named(name).ok_or_else(|| unlike(&spec.family, "is not an architecture of GGUF files"))?;
    check(family, spec)?;
    let mut said = Said {
        family,
        keys: vec![
            ("general.architecture".to_owned(), Value::String(family.name.to_owned())),
            ("general.type".to_owned(), Value::String("model".to_owned())),
        ],
        constants: Vec::new(),
    };
    said.sizes(spec);
    said.positions(spec)?;
    Ok(said)
}

fn unlike(family: &str, what: &str) -> Refusal {
    Refusal::unsupported(format_args!("as a GGUF file: {family} {what}"))
}

/// What files of a family leave to it must be as it has it.
fn check(family: &Family, spec: &ArchSpec) -> Result<(), Refusal> {
    let gated = family.feed_forward != FeedForwardLayout::Plain;
    let scaled = if family.scaled_embedding {
        (spec.hidden_size as f32).sqrt()
    } else {
        1.0
    };
    let alike = spec.norm.kind == family.norm
        && spec.embedding_scale == scaled
        && spec.layers.iter().enumerate().all(|(index, layer)| {
            let attention = &layer.attention;
            let bare = family
                .without_rotary
                .is_some_and(|every| (index + 1).is_multiple_of(every));
            let width = match family.scaled_by_share == Some(spec.layers.len()) {
                true => spec.hidden_size / attention.heads.max(1),
                false => attention.head_dim,
            };
            let rotates = family.positions != Positions::Learned && !bare;
            matches!(layer.feed_forward, FeedForward::Gated { .. }) == gated
                && layer.feed_forward.activation() == family.activation
                && attention.head_norms == family.head_norms
                && layer.post_norms == family.post_norms
                && attention.scale == (1.0 / (width as f64).sqrt()) as f32
                && attention.head_dim == spec.layers[0].attention.head_dim
                && (attention.position != Position::None) == rotates
        });
    match alike {
        true => Ok(()),
        false => Err(unlike(family.name, "has other layers than files of that name say")),
    }
}

impl Said {
    fn put(&mut self, key: &str, value: Value) {
        self.keys.push((format!("{}.{key}", self.family.name), value));
    }

    fn size(&mut self, key: &str, size: usize) {
        self.put(key, Value::U32(size as u32));
    }

    fn sizes(&mut self, spec: &ArchSpec) {
        let first = &spec.layers[0].attention;
        self.size("block_count", spec.layers.len());
        self.size("context_length", spec.context_length);
        self.size("embedding_length", spec.hidden_size);
        self.size("vocab_size", spec.vocab_size);
        let layers = || spec.layers.iter();
        self.each(
            "feed_forward_length",
            layers().map(|layer| layer.feed_forward.inner_size()).collect(),
        );
        self.each(
            "attention.head_count",
            layers().map(|layer| layer.attention.heads).collect(),
        );
        self.each(
            "attention.head_count_kv",
            layers().map(|layer| layer.attention.kv_heads).collect(),
        );
        if self.family.positions != Positions::Learned {
            self.size("attention.key_length", first.head_dim);
            self.size("attention.value_length", first.head_dim);
        }
        let epsilon = match self.family.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        self.put(epsilon, Value::F32(spec.norm.epsilon));
    }

    /// One number where all layers have the same.
    fn each(&mut self, key: &str, sizes: Vec<usize>) {
        match sizes.iter().all(|size| *size == sizes[0]) {
            true => self.size(key, sizes[0]),
            false => {
                let sizes = sizes.into_iter().map(|size| size as u32).collect();
                self.put(key, Value::Array(rootstock_formats::gguf::Array::U32(sizes)));
            }
        }
    }

    fn positions(&mut self, spec: &ArchSpec) -> Result<(), Refusal> {
        let family = self.family;
        let windows: Vec<_> = spec.layers.iter().map(|layer| layer.attention.window).collect();
        let window = windows.iter().flatten().next();
        let slides = |index: usize| match family.windows {
            Windows::Every => true,
            Windows::AllBut(every) => !(index + 1).is_multiple_of(every),
        };
        let expected = |index: usize| window.filter(|_| slides(index)).copied();
        if (0..windows.len()).any(|index| windows[index] != expected(index)) {
            if family.windows == Windows::Every {
                let what = "has windows on other layers than files of that name say";
                return Err(unlike(family.name, what));
            }
            let flags = windows.iter().map(|window| u32::from(window.is_some())).collect();
            let flags = Value::Array(rootstock_formats::gguf::Array::U32(flags));
            self.put("attention.sliding_window_pattern", flags);
        }
        if let Some(&window) = window {
            self.size("attention.sliding_window", window);
        }
        let rotation = |slides: bool| {
            let layers = spec.layers.iter().map(|layer| &layer.attention);
            let of_kind = |attention: &&crate::AttentionSpec| match family.windows {
                Windows::Every => true,
                Windows::AllBut(_) => attention.window.is_some() == slides,
            };
            let mut positions = layers.filter(of_kind).map(|attention| &attention.position);
            positions.find(|position| **position != Position::None)
        };
        if family.positions == Positions::Learned {
            return Ok(());
        }
        if let Some(position) = rotation(false).or(rotation(true)) {
            let rotation = Rotation::of(position).ok_or_else(|| unlike(family.name, "scales rotary positions"))?;
            self.rotation(&rotation)?;
        }
        if let (Windows::AllBut(_), Some(position)) = (family.windows, rotation(true)) {
            let plain = Rotation::of(position).filter(|rotation| rotation.factors.is_none() && rotation.divisor == 1.0);
            let plain = plain.ok_or_else(|| unlike(family.name, "scales the positions of windows"))?;
            self.put("rope.freq_base_swa", Value::F32(plain.base as f32));
        }
        Ok(())
    }

    fn rotation(&mut self, rotation: &Rotation<'_>) -> Result<(), Refusal> {
        self.put("rope.freq_base", Value::F32(rotation.base as f32));
        self.size("rope.dimension_count", 2 * rotation.angles.len());
        if rotation.divisor != 1.0 {
            self.put("rope.scaling.type", Value::String("linear".to_owned()));
            self.put("rope.scaling.factor", Value::F32(rotation.divisor as f32));
        }
        let Some(factors) = &rotation.factors else {
            return Ok(());
        };
        // Other graphs of llama.cpp do not read factors.
        if self.family.name != "llama" {
            return Err(unlike(self.family.name, "scales rotary positions pair by pair"));
        }
        let tensor = NewTensor {
            name: FACTORS.to_owned(),
            dtype: DType::F32,
            shape: vec![factors.len()],
        };
        let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes());
        self.constants.push((tensor, bytes.collect()));
        Ok(())
    }
}

impl<'a> Rotation<'a> {
    /// `None` for a factor on what rotates.
    fn of(position: &'a Position) -> Option<Self> {
        let Position::Rotary {
            inverse_frequencies: angles,
            magnitude,
        } = position
        else {
            return None;
        };
        if *magnitude != 1.0 {
            return None;
        }
        let default = f64::from(DEFAULT_BASE);
        let rotation = |base: f64, divisor: f64| Self {
            base,
            divisor,
            factors: None,
            angles,
        };
        if let Some(base) = base_of(angles, default) {
            return Some(rotation(base, 1.0));
        }
        let divisor = (1.0 / f64::from(*angles.first()?)).round();
        if divisor > 1.0 {
            let plain: Vec<f32> = angles
                .iter()
                .map(|&angle| (f64::from(angle) * divisor) as f32)
                .collect();
            if let Some(base) = base_of(&plain, default) {
                return Some(rotation(base, divisor));
            }
        }
        let base = base_of_first(angles).unwrap_or(default);
        let plain = plain_angles(base, 2 * angles.len());
        let factors = plain
            .iter()
            .zip(angles.iter())
            .map(|(&plain, &angle)| factor(plain, angle));
        Some(Self {
            factors: Some(factors.collect()),
            ..rotation(base, 1.0)
        })
    }
}

/// The base whose second plain angle is that of scaled ones, with as few digits as say it: scaling leaves what turns fast.
fn base_of_first(angles: &[f32]) -> Option<f64> {
    let (width, second) = (2 * angles.len(), *angles.get(1)?);
    let estimate = f64::from(second).powf(-(width as f64) / 2.0);
    let mut rounded = (0..6).filter_map(|digits| format!("{estimate:.digits$e}").parse::<f64>().ok());
    rounded.find(|&base| base > 1.0 && plain_angles(base, width)[1] as f32 == second)
}

/// What a plain angle is divided by to give another; a neighbour where rounding wants it.
fn factor(plain: f64, angle: f32) -> f32 {
    let near = (plain / f64::from(angle)) as f32;
    let exact = |factor: &f32| (plain / f64::from(*factor)) as f32 == angle;
    [near, near.next_up(), near.next_down()]
        .into_iter()
        .find(exact)
        .unwrap_or(near)
}
