//! Which type each tensor gets.

use rootstock_formats::DType;
use rootstock_model::checkpoint::{Role, StoredTensor};
use rootstock_model::{ArchSpec, Projection};

use crate::OptimizeError;

/// Types that weights are quantized to, by the names that llama.cpp has for them.
pub const BLOCK_TYPES: [(&str, DType); 10] = [
    ("q4_0", DType::Q4_0),
    ("q4_1", DType::Q4_1),
    ("q5_0", DType::Q5_0),
    ("q5_1", DType::Q5_1),
    ("q8_0", DType::Q8_0),
    ("q2_k", DType::Q2_K),
    ("q3_k", DType::Q3_K),
    ("q4_k", DType::Q4_K),
    ("q5_k", DType::Q5_K),
    ("q6_k", DType::Q6_K),
];

/// Types that keep weights as numbers one by one.
pub const FLOAT_TYPES: [(&str, DType); 3] = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)];

/// The type of a name.
///
/// # Errors
/// The names that there are.
pub fn tensor_type(name: &str) -> Result<DType, String> {
    let wanted = name.trim().to_ascii_lowercase();
    let mut types = FLOAT_TYPES.iter().chain(&BLOCK_TYPES);
    let found = types.clone().find(|(known, _)| *known == wanted);
    found.map(|(_, dtype)| *dtype).ok_or_else(|| {
        let names: Vec<_> = types.by_ref().map(|(name, _)| *name).collect();
        format!("expected one of {}, got {name:?}", names.join(", "))
    })
}

/// The types of a file's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Of the maps of layers.
    pub maps: DType,
    /// Of embedding and output projection, on which every token depends.
    pub vocabulary: DType,
    /// Values and what leads down to the residual stream get this in some layers, as llama.cpp's types that end in M have it.
    pub sensitive: Option<DType>,
}

impl Recipe {
    /// What is usual for a type: embedding and output in 6 or 8 bits.
    pub fn of(dtype: DType) -> Self {
        let vocabulary = match dtype {
            DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0 => dtype,
            _ => DType::Q6_K,
        };
        Self {
            maps: dtype,
            vocabulary,
            sensitive: None,
        }
    }

    /// The recipe of a name: that of a type, or `q4_k_m` and `q5_k_m`.
    ///
    /// # Errors
    /// As [`tensor_type`].
    pub fn named(name: &str) -> Result<Self, String> {
        let mixed = |dtype| Self {
            sensitive: Some(DType::Q6_K),
            ..Self::of(dtype)
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "q4_k_m" => Ok(mixed(DType::Q4_K)),
            "q5_k_m" => Ok(mixed(DType::Q5_K)),
            "q4_k_s" => Ok(Self::of(DType::Q4_K)),
            "q5_k_s" => Ok(Self::of(DType::Q5_K)),
            other => tensor_type(other).map(Self::of),
        }
    }

    fn of_role(&self, role: Role, layers: usize) -> DType {
        match role {
            Role::Embedding | Role::Output => self.vocabulary,
            Role::Weight { layer, projection } => {
                let sensitive = matches!(projection, Projection::Value | Projection::Down);
                match self.sensitive {
                    Some(dtype) if sensitive && takes_more_bits(layer, layers) => dtype,
                    _ => self.maps,
                }
            }
            Role::Positions | Role::Bias { .. } | Role::Norm(_) | Role::NormBias(_) => DType::F32,
        }
    }
}

/// The layers that llama.cpp's mixed types give more bits: the first and last eighth, and every third between them.
fn takes_more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// Another type for the tensors of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Name of a tensor, `*` for any characters; `embedding` and `output` (or `lm_head`) for those of whichever name.
    pub pattern: String,
    /// Its type.
    pub dtype: DType,
}

impl std::str::FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, dtype) = text
            .split_once('=')
            .ok_or_else(|| format!("expected TENSOR=TYPE, got {text:?}"))?;
        Ok(Self {
            pattern: pattern.trim().to_owned(),
            dtype: tensor_type(dtype)?,
        })
    }
}

impl Exception {
    fn names(&self, tensor: &StoredTensor, spec: &ArchSpec) -> bool {
        let role = tensor.parts[0].0;
        let output = role == Role::Output || (role == Role::Embedding && spec.tied_output);
        match self.pattern.as_str() {
            "embedding" | "embed_tokens" => role == Role::Embedding,
            "output" | "lm_head" => output,
            pattern => matches(pattern, &tensor.name),
        }
    }
}

/// Whether a name is what a pattern says, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, between)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in between {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// The types of a file's tensors, in their order. Where rows are no whole number of blocks, the nearest type takes the place that
/// has blocks of 32, as llama.cpp's choice is, or else half precision.
///
/// # Errors
/// An exception that names no tensor.
pub fn plan(
    tensors: &[StoredTensor],
    spec: &ArchSpec,
    recipe: Recipe,
    exceptions: &[Exception],
) -> Result<Vec<DType>, OptimizeError> {
    let named = |exception: &&Exception| tensors.iter().any(|tensor| exception.names(tensor, spec));
    if let Some(unknown) = exceptions.iter().find(|exception| !named(exception)) {
        return Err(OptimizeError::Setting {
            field: "--tensor-type".to_owned(),
            reason: format!(
                "no tensor is called {:?}; `rootstock inspect` lists them",
                unknown.pattern
            ),
        });
    }
    let layers = spec.layers.len();
    let typed = tensors.iter().map(|tensor| {
        let mut parts = tensor.parts.iter().map(|&(role, _)| recipe.of_role(role, layers));
        // Roles that share a tensor share the better type.
        let usual = parts
            .by_ref()
            .max_by_key(|dtype| dtype.block().1 * 256 / dtype.block().0);
        let asked = exceptions.iter().rfind(|exception| exception.names(tensor, spec));
        let dtype = asked.map_or(usual.unwrap_or(DType::F32), |exception| exception.dtype);
        fitting(dtype, tensor)
    });
    Ok(typed.collect())
}

fn fitting(dtype: DType, tensor: &StoredTensor) -> DType {
    if !tensor.is_matrix() {
        return DType::F32;
    }
    let width = tensor.shape.last().copied().unwrap_or(0);
    if width % dtype.block().0 == 0 {
        return dtype;
    }
    let smaller = match dtype {
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        _ => DType::Q8_0,
    };
    if width % smaller.block().0 == 0 {
        smaller
    } else {
        DType::F16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("blk.*.attn_v.weight", "blk.12.attn_v.weight", true),
            ("blk.1.*", "blk.12.attn_v.weight", false),
            ("*attn*", "blk.12.attn_v.weight", true),
            ("*.weight*.weight", "blk.12.attn_v.weight", false),
            ("output.weight", "output.weight", true),
            ("output", "output.weight", false),
            ("*", "output.weight", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn recipes_have_llama_cpps_names() {
        assert_eq!(Recipe::named("Q4_K_M").unwrap().sensitive, Some(DType::Q6_K));
        assert_eq!(Recipe::named("q4_0").unwrap().vocabulary, DType::Q6_K);
        assert_eq!(Recipe::named("f16").unwrap().vocabulary, DType::F16);
        let error = Recipe::named("q4").unwrap_err();
        assert!(error.contains("q4_k") && error.contains("\"q4\""), "{error}");
    }

    #[test]
    fn a_quarter_of_the_layers_and_their_ends_take_more_bits() {
        let more: Vec<usize> = (0..30).filter(|&layer| takes_more_bits(layer, 30)).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
    }
}
