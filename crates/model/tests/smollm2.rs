//! The real SmolLM2-135M-Instruct: its shapes, and text to ids and back as transformers does it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootstock_formats::DType;
use rootstock_model::text::TextStream;
use rootstock_model::{Checkpoint, FeedForward, NormSite, Position, Projection, RowOrder, Site};
use serde_json::{Map, Value};

const IM_START: u32 = 1;
const IM_END: u32 = 2;

fn model() -> Checkpoint {
    let path = std::env::var_os("ROOTSTOCK_TEST_MODEL").map_or_else(
        || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            workspace.join(".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}; `make model` fetches the test model"))
}

fn golden() -> Vec<Value> {
    let mut fixture: Value = serde_json::from_str(include_str!("fixtures/smollm2_prompts.json")).unwrap();
    fixture["prompts"].as_array_mut().map(std::mem::take).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn what_is_stored_adds_up_to_the_file() {
    let model = model();
    let stored: Vec<_> = model.file_tensors().collect();
    // Nine tensors a layer, the embedding, which is the output too, and the last normalisation.
    assert_eq!((stored.len(), model.parameters()), (30 * 9 + 2, 134_515_008));
    let embedding = stored.iter().find(|tensor| tensor.name == "token_embd.weight").unwrap();
    assert_eq!((embedding.shape, embedding.dtype), (&[49_152, 576][..], DType::Q8_0));
    assert_eq!(embedding.bytes, 49_152 * 576 / 32 * 34);
    let bytes: u64 = stored.iter().map(|tensor| tensor.bytes).sum();
    assert!(bytes < model.file_bytes() && bytes > model.file_bytes() * 9 / 10);
    assert_eq!(model.bits_per_weight(), bytes as f64 * 8.0 / 134_515_008.0);
}

#[test]
fn the_architecture_is_read_from_the_metadata() {
    let model = model();
    let spec = model.spec();
    assert_eq!(
        (spec.family.as_str(), spec.vocab_size, spec.hidden_size),
        ("llama", 49_152, 576)
    );
    assert_eq!(
        (spec.layers.len(), spec.context_length, spec.tied_output),
        (30, 8_192, true)
    );
    let attention = &spec.layers[29].attention;
    assert_eq!(
        (attention.heads, attention.kv_heads, attention.head_dim, attention.scale),
        (9, 3, 64, 0.125)
    );
    assert!(matches!(
        spec.layers[0].feed_forward,
        FeedForward::Gated { inner_size: 1_536, .. }
    ));
    let Position::Rotary {
        inverse_frequencies,
        magnitude: 1.0,
    } = &attention.position
    else {
        panic!("{:?}", attention.position);
    };
    assert_eq!((inverse_frequencies.len(), inverse_frequencies[0]), (32, 1.0));
    assert!((inverse_frequencies[16] - 100_000f32.powf(-0.5)).abs() < 1e-9);
}

#[test]
fn every_tensor_is_found_by_its_role() {
    let model = model();
    let embedding = model.embedding().unwrap();
    assert_eq!(
        (embedding.dtype, embedding.rows, embedding.cols),
        (DType::Q8_0, 49_152, 576)
    );
    assert_eq!(model.output().unwrap().bytes.as_ptr(), embedding.bytes.as_ptr());
    for layer in 0..30 {
        for projection in Projection::ALL {
            let site = Site::Layer { layer, projection };
            let view = model.projection(layer, projection).unwrap();
            assert_eq!(Some((view.cols, view.rows)), model.spec().shape(site), "{site}");
            let permuted = view.row_order == RowOrder::InterleavedHalves { head_dim: 64 };
            assert_eq!(
                permuted,
                matches!(projection, Projection::Query | Projection::Key),
                "{site}"
            );
        }
        assert_eq!(model.norm(NormSite::Attention(layer)).weight.len(), 576);
        assert_eq!(model.norm(NormSite::FeedForward(layer)).weight.len(), 576);
    }
    assert!(
        model
            .norm(NormSite::Final)
            .weight
            .iter()
            .all(|weight| weight.is_finite())
    );
}

#[test]
fn prompts_have_the_reference_ids() {
    let model = model();
    let (tokenizer, template) = (model.tokenizer().unwrap(), model.chat_template().unwrap().unwrap());
    for prompt in golden() {
        let text = match prompt["kind"].as_str() {
            Some("chat") => template
                .render(prompt["input"].as_array().unwrap(), true, &Map::new())
                .unwrap(),
            _ => prompt["input"].as_str().unwrap().to_owned(),
        };
        let expected = ids(&prompt["ids"]);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), expected, "{text:?}");
        assert_eq!(
            tokenizer.encode(&text, true).unwrap(),
            expected,
            "no BOS by itself: {text:?}"
        );
        assert_eq!(tokenizer.decode(&expected, false), text);
    }
}

#[test]
fn generated_ids_have_the_reference_text_at_once_and_in_a_stream() {
    let tokenizer = Arc::new(model().tokenizer().unwrap());
    for prompt in golden() {
        let generated = ids(&prompt["greedy_ids"]);
        let expected = prompt["greedy_text"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&generated, false), expected);
        let mut stream = TextStream::new(tokenizer.clone(), Vec::new(), false);
        let mut text: String = generated.iter().map(|&id| stream.push(id).text).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, expected);
    }
}

#[test]
fn turns_end_at_the_end_of_turn_and_of_text() {
    let tokenizer = model().tokenizer().unwrap();
    assert_eq!(tokenizer.end_tokens(), [0, IM_END]);
    assert_eq!(tokenizer.vocab_size(), 49_152);
    let special: Vec<u32> = (0..49_152).filter(|&id| tokenizer.is_special(id)).collect();
    assert_eq!(special, (0..17).collect::<Vec<_>>());
}

#[test]
fn special_tokens_in_plain_text_stay_text() {
    let tokenizer = model().tokenizer().unwrap();
    let text = "<|im_start|>user";
    assert_eq!(tokenizer.encode(text, false).unwrap()[0], IM_START);
    let plain = tokenizer.encode_plain(text).unwrap();
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true), text);
    assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), true), "user");
}

#[test]
fn long_runs_without_a_border_survive() {
    let tokenizer = model().tokenizer().unwrap();
    for piece in ["a", " ", "\n", "7", "é", "<|im_"] {
        let text = piece.repeat(100_000);
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, true).unwrap(), false), text);
    }
}

#[test]
fn bytes_without_a_token_are_dropped() {
    let tokenizer = model().tokenizer().unwrap();
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("a\u{4}b", true).unwrap(), false),
        "ab"
    );
}
