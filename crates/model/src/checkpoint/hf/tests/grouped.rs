//! Folders of integers in groups, written and read back.

use std::collections::BTreeMap;

use rootstock_formats::DType;

use super::quantized::noise;
use super::*;
use crate::checkpoint::Role;
use crate::{EncodedSource, FloatType, GroupLayout, Grouping, ModelFolder, SaveSettings};

const SETTINGS: SaveSettings<'static> = SaveSettings {
    float: FloatType::F32,
    shard_bytes: 50_000,
    card: "# A model\n",
};

/// Blocks at random whose groups share scale and zero point, remembered as they were given.
struct Blocks<'a> {
    spec: &'a ArchSpec,
    grouping: Grouping,
    given: BTreeMap<Role, Vec<u8>>,
}

impl EncodedSource for Blocks<'_> {
    fn encoded(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, ModelError> {
        assert_eq!(dtype, self.grouping.dtype());
        let blocks = role.shape(self.spec).iter().product::<usize>() / 32;
        let (_, size) = dtype.block();
        // Other ones for each map.
        let mut bytes = noise(blocks * size + self.given.len()).split_off(self.given.len());
        for group in bytes.chunks_exact_mut(size * self.grouping.group_size / 32) {
            let scale = half::f16::from_f32(0.01 + f32::from(group[0]) / 1000.0).to_le_bytes();
            let zero = if self.grouping.symmetric { 8 } else { group[2] % 16 };
            for block in group.chunks_exact_mut(size) {
                block[..2].copy_from_slice(&scale);
                if dtype == DType::I4 {
                    block[2] = zero;
                }
            }
        }
        self.given.insert(role, bytes.clone());
        Ok(bytes)
    }
}

fn grouping(layout: GroupLayout, bits: usize, group_size: usize, symmetric: bool) -> Grouping {
    Grouping {
        layout,
        bits,
        group_size,
        symmetric,
    }
}

#[test]
fn groups_are_read_as_they_were_written() {
    use GroupLayout::{CompressedTensors, Gptq};
    for (name, grouping) in [
        ("llama-bias", grouping(CompressedTensors, 4, 32, true)),
        ("phi3", grouping(CompressedTensors, 4, 64, false)),
        ("gemma3", grouping(CompressedTensors, 8, 32, true)),
        ("llama-bias", grouping(Gptq, 4, 64, true)),
        ("phi3", grouping(Gptq, 8, 32, true)),
        ("gpt2", grouping(Gptq, 4, 32, false)),
    ] {
        let kept = Model::tiny(name).folder();
        let source = Checkpoint::open(kept.path()).unwrap();
        let mut blocks = Blocks {
            spec: source.spec(),
            grouping,
            given: BTreeMap::new(),
        };
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("model");
        let folder = ModelFolder::of(&source).unwrap().grouped(grouping).unwrap();
        folder.write(&dir, &source, &mut blocks, &SETTINGS).unwrap();
        assert!(dir.join("model.safetensors.index.json").is_file(), "{name}: shards");

        let read = Checkpoint::open(&dir).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.spec(), source.spec(), "{name}");
        for (role, bytes) in &blocks.given {
            let matrix = read.matrix(*role).unwrap();
            assert_eq!(matrix.dtype, grouping.dtype(), "{name} {role}");
            assert!(*matrix.bytes == bytes[..], "{name} {role}");
        }
        let maps = source.spec().layers.iter().flat_map(|layer| layer.projections());
        assert_eq!(blocks.given.len(), maps.count(), "{name}");
        let embedding = |checkpoint: &Checkpoint| checkpoint.embedding().unwrap().bytes.into_owned();
        assert!(embedding(&read) == embedding(&source), "{name}");
    }
}

#[test]
fn groups_that_cannot_be_written_are_refused() {
    use GroupLayout::{CompressedTensors, Gptq};
    let refused = |name: &str, grouping, part: &str| {
        let kept = Model::tiny(name).folder();
        let folder = ModelFolder::of(&Checkpoint::open(kept.path()).unwrap()).unwrap();
        let error = folder.grouped(grouping).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    };
    refused("llama-bias", grouping(Gptq, 3, 32, true), "expected 4 bits");
    refused("llama-bias", grouping(Gptq, 8, 32, false), "that are symmetric, got 8");
    refused(
        "llama-bias",
        grouping(Gptq, 4, 48, true),
        "multiple of 32 inputs, got 48",
    );
    refused("llama-bias", grouping(Gptq, 4, 0, true), "multiple of 32 inputs, got 0");
    refused(
        "llama-bias",
        grouping(Gptq, 4, 128, true),
        "take smaller groups or compressed-tensors",
    );
    refused(
        "llama-bias",
        grouping(CompressedTensors, 4, 1024, true),
        "no map of a layer",
    );
    // Its maps are no linear layers to transformers.
    refused("gpt2", grouping(CompressedTensors, 4, 32, true), "no map of a layer");
}
