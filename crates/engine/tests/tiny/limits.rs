//! What a file promises and the machine does not have.

use std::fs;

use rootstock_engine::native::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use rootstock_engine::runner::Runner;
use rootstock_model::Checkpoint;

use crate::model::fixture;

/// Tables of positions as long as this one states would take half a GiB.
#[test]
fn a_context_beyond_the_kv_memory_is_cut_to_it() {
    let (from, to) = (fixture("tiny/qwen2"), tempfile::tempdir().unwrap());
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = (1 << 23).into();
    fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(from.join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(to.path()).unwrap();
    assert_eq!(checkpoint.spec().context_length, 1 << 23);
    let settings = NativeSettings {
        threads: 1,
        max_context: usize::MAX,
        kv_bytes: 1 << 20,
        activations: ActivationPrecision::Int8,
        weights: WeightPrecision::Stored,
        four_bit_output: false,
    };
    let held = NativeRunner::new(&checkpoint, settings).unwrap().capabilities();
    assert!(held.blocks > 0);
    assert_eq!(held.max_context, held.blocks * held.block_tokens);
}
