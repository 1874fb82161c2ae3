//! Adapters written: low-rank pairs module by module, as a PEFT folder or a GGUF file. What is read back has the same effects.

mod gguf;
mod peft;

pub use self::gguf::{GgufLora, LoraType};
pub use self::peft::{PeftFolder, SavedTensor};
use super::modules::{Map, Modules};
use super::{Adapter, AdapterError, AdapterErrorCode as Code, AdapterTensor, Effect, LowRank};

/// A pair on all outputs of a module.
#[derive(Debug, Clone)]
pub struct ModulePair {
    /// The module's path.
    pub path: String,
    /// Factor on the product.
    pub scale: f32,
    /// `[rank, inputs]`
    pub a: AdapterTensor,
    /// `[outputs, rank]`
    pub b: AdapterTensor,
}

impl ModulePair {
    fn rank(&self) -> usize {
        self.a.rows
    }

    /// What the scale is the rank's share of: the nearest f32 where that gives the same scale.
    fn alpha(&self) -> f64 {
        let rank = self.rank() as f64;
        let exact = f64::from(self.scale) * rank;
        let near = f64::from(exact as f32);
        if (near / rank) as f32 == self.scale {
            near
        } else {
            exact
        }
    }
}

/// The pairs of an adapter that has nothing else, by the modules of `modules`; `container` is what messages say cannot hold the
/// rest.
fn module_pairs<'m>(
    adapter: &Adapter,
    modules: &'m Modules,
    container: &str,
) -> Result<Vec<(&'m Map, ModulePair)>, AdapterError> {
    let mut pairs = Vec::with_capacity(adapter.effects.len());
    for effect in &adapter.effects {
        let (place, what) = match effect {
            Effect::LowRank(pair) if pair.magnitude.is_none() => {
                pairs.push(pair);
                continue;
            }
            Effect::LowRank(pair) => (pair.site.to_string(), "DoRA's magnitude (use_dora)"),
            Effect::Bias(bias) => (bias.site.to_string(), "a bias (bias, lora_bias)"),
            Effect::Matrix(matrix) => (matrix.site.to_string(), "a whole matrix (modules_to_save)"),
            Effect::Norm(norm) => (format!("{:?}", norm.site), "a normalisation (modules_to_save)"),
            Effect::Bottleneck(bottleneck) => (bottleneck.site.to_string(), "a bottleneck"),
        };
        let message = format!(
            "{place}: {container} holds low-rank pairs alone, and the adapter has {what}; merge it into its base (rootstock merge)"
        );
        return Err(AdapterError::new(Code::UnsupportedType, message));
    }
    let mut joined = Vec::new();
    for (path, map) in modules.maps() {
        let parts = map.parts.iter();
        let found: Vec<_> = parts
            .filter_map(|part| pairs.iter().find(|pair| pair.site == part.site).copied())
            .collect();
        match found.as_slice() {
            [] => {}
            found if found.len() == map.parts.len() => joined.push((map, join(path, found)?)),
            [some, ..] => return Err(apart(path, some)),
        }
    }
    Ok(joined)
}

/// The pairs on a module's parts as one: A is shared, B are the rows of each.
fn join(path: &str, parts: &[&LowRank]) -> Result<ModulePair, AdapterError> {
    let first = parts[0];
    let mut b = first.b.clone();
    for part in &parts[1..] {
        let same = part.scale == first.scale && part.a.bytes == first.a.bytes && part.b.dtype == b.dtype;
        if !same || part.b.cols != b.cols {
            return Err(apart(path, part));
        }
        b.rows += part.b.rows;
        b.bytes.extend(&part.b.bytes);
    }
    Ok(ModulePair {
        path: path.to_owned(),
        scale: first.scale,
        a: first.a.clone(),
        b,
    })
}

fn apart(path: &str, pair: &LowRank) -> AdapterError {
    let message = format!(
        "{}: the file has one pair for all of {path}, and the adapter has another for a part of it",
        pair.site
    );
    AdapterError::new(Code::UnsupportedType, message)
}

/// The value that most have; of several such the first.
fn commonest<T: PartialEq + Copy>(values: impl Iterator<Item = T> + Clone) -> Option<T> {
    let count = |value: T| values.clone().filter(|other| *other == value).count();
    let mut best = None;
    for value in values.clone() {
        let times = count(value);
        if best.is_none_or(|(_, most)| times > most) {
            best = Some((value, times));
        }
    }
    best.map(|(value, _)| value)
}
