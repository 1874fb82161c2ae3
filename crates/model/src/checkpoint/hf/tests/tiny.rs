//! The nine tiny checkpoints.

use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::{NormSite, Projection};

const NAMES: [&str; 9] = [
    "gemma3",
    "gpt2",
    "llama-bias",
    "llama3-rope",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tiny")
        .join(name)
}

#[test]
fn every_tensor_of_every_checkpoint_is_read() {
    for name in NAMES {
        let checkpoint = Checkpoint::open(&folder(name)).unwrap_or_else(|error| panic!("{error}"));
        let spec = checkpoint.spec();
        assert_eq!(checkpoint.embedding().unwrap().rows, 256, "{name}");
        assert_eq!(checkpoint.output().unwrap().cols, 64, "{name}");
        for (layer, shape) in spec.layers.iter().enumerate() {
            for projection in shape.projections() {
                let (inputs, outputs) = shape.shape(projection, 64);
                let matrix = checkpoint.projection(layer, projection).unwrap();
                assert_eq!((matrix.rows, matrix.cols), (outputs, inputs), "{name}");
                assert_eq!(matrix.bytes.len(), inputs * outputs * 4, "{name}");
                let bias = checkpoint.bias(layer, projection);
                assert_eq!(
                    bias.map(<[f32]>::len),
                    shape.biases.contains(projection).then_some(outputs),
                    "{name}"
                );
            }
            shape.norms(layer).for_each(|site| drop(checkpoint.norm(site)));
        }
        assert_eq!(checkpoint.norm(NormSite::Final).weight.len(), 64);
        let _ = Projection::ALL;
    }
}
