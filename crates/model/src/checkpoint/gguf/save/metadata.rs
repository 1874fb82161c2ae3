//! What a GGUF file says of a model beside its weights.

use std::path::Path;

use rootstock_formats::DType;
use rootstock_formats::gguf::{Gguf, NewTensor, Value};

use super::super::family::Family;
use super::super::metadata;
use super::super::names::Names;
use super::architecture;
use crate::checkpoint::roles::NameTable;
use crate::checkpoint::stored::{StoredTensor, stored};
use crate::checkpoint::{Additions, Checkpoint, Refusal, Role, TextSource};
use crate::text;
use crate::{ArchSpec, ProjectionSet};

/// A model as GGUF describes it.
pub(super) struct Described {
    /// What it describes, with additions.
    pub(super) spec: ArchSpec,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<StoredTensor>,
    pub(super) constants: Vec<(NewTensor, Vec<u8>)>,
}

/// Keys about one file of a model, and not about the model: they are left out or made anew.
const OF_THE_FILE: [&str; 3] = ["general.alignment", FILE_TYPE, QUANTIZATION];
/// What such keys begin with.
const FAMILIES_OF_THE_FILE: [&str; 2] = ["split.", "quantize."];

/// The type that most of the weights have.
const FILE_TYPE: &str = "general.file_type";
/// The version of ggml's block types.
const QUANTIZATION: &str = "general.quantization_version";

/// Families whose files may have biases on any map.
const TAKES_BIASES: [&str; 2] = ["llama", "mistral"];

impl Described {
    pub(super) fn of(checkpoint: &Checkpoint, additions: Additions) -> Result<Self, Refusal> {
        let spec = additions.to(&checkpoint.spec);
        let described = match &checkpoint.text {
            TextSource::Gguf(gguf) => Self::kept(checkpoint, gguf, spec),
            TextSource::Folder(dir) => Self::converted(dir, spec),
        }?;
        // Others' graphs in llama.cpp have the biases that the family always has.
        if additions.biases != ProjectionSet::NONE && !TAKES_BIASES.contains(&described.spec.family.as_str()) {
            return Err(Refusal::unsupported(format_args!(
                "as a GGUF file: {} has no place for a bias that its maps do not always have",
                described.spec.family
            )));
        }
        Ok(described)
    }

    /// What a file says of a model that was read from a folder.
    fn converted(dir: &Path, spec: ArchSpec) -> Result<Self, Refusal> {
        let said = architecture::of(&spec)?;
        let names = Names::to_write(said.family, &spec);
        let mut metadata = said.keys;
        let name = dir
            .canonicalize()
            .ok()
            .and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        metadata.extend(name.map(|name| ("general.name".to_owned(), Value::String(name))));
        let text = text::hf::gguf_fields(dir, spec.vocab_size);
        metadata.extend(text.map_err(Refusal::unsupported)?);
        Ok(Self {
            metadata,
            constants: said.constants,
            tensors: layers_first(stored(&names, &spec)?),
            spec,
        })
    }

    /// What the file says that the model was read from.
    fn kept(checkpoint: &Checkpoint, gguf: &Gguf, spec: ArchSpec) -> Result<Self, Refusal> {
        let shards = checkpoint.tensors.shards();
        let family: &'static Family = metadata::family(gguf)?;
        let names = Names::new(family, &spec, shards);
        let kept = gguf.metadata().iter().filter(|(key, _)| !is_of_the_file(key));
        let implied = shards.names().filter(|name| names.is_implied(name));
        let constants = implied.filter_map(|name| {
            let (info, bytes) = shards.tensor(name)?;
            let tensor = NewTensor {
                name: name.to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            Some((tensor, bytes.to_vec()))
        });
        Ok(Self {
            metadata: kept.map(|(key, value)| (key.clone(), value.clone())).collect(),
            constants: constants.collect(),
            tensors: layers_first(stored(&names, &spec)?),
            spec,
        })
    }
}

/// What layers have, in their order, before embedding and output: who quantizes them knows what the output is given only after
/// the layers.
fn layers_first(mut tensors: Vec<StoredTensor>) -> Vec<StoredTensor> {
    let of_vocabulary = |tensor: &StoredTensor| matches!(tensor.parts[0].0, Role::Embedding | Role::Output);
    tensors.sort_by_key(of_vocabulary);
    tensors
}

fn is_of_the_file(key: &str) -> bool {
    OF_THE_FILE.contains(&key) || FAMILIES_OF_THE_FILE.iter().any(|family| key.starts_with(family))
}

/// What a file says of the types of its tensors: the one that most of its weights have, by llama.cpp's number for it.
pub(super) fn precision(tensors: &[NewTensor]) -> Vec<(String, Value)> {
    let weights = |dtype: DType| {
        let typed = tensors.iter().filter(|tensor| tensor.dtype == dtype);
        typed
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum::<usize>()
    };
    let most = FILE_TYPES.iter().max_by_key(|(dtype, _)| weights(*dtype));
    let quantized = tensors.iter().any(|tensor| tensor.dtype.block().0 > 1);
    let file_type = most.map(|&(_, number)| (FILE_TYPE.to_owned(), Value::U32(number)));
    let version = quantized.then(|| (QUANTIZATION.to_owned(), Value::U32(2)));
    file_type.into_iter().chain(version).collect()
}

/// Numbers of `general.file_type`; of K types those that llama.cpp has for files without larger types beside them.
const FILE_TYPES: [(DType, u32); 13] = [
    (DType::F32, 0),
    (DType::F16, 1),
    (DType::Q4_0, 2),
    (DType::Q4_1, 3),
    (DType::Q8_0, 7),
    (DType::Q5_0, 8),
    (DType::Q5_1, 9),
    (DType::Q2_K, 10),
    (DType::Q3_K, 11),
    (DType::Q4_K, 14),
    (DType::Q5_K, 16),
    (DType::Q6_K, 18),
    (DType::BF16, 32),
];
