//! Candle's CPU device against torch + peft within the same bounds, and against our own kernels on every architecture.

use rootstock_candle::{CandleEngine, Settings, Target};
use rootstock_decoder::{Backend, FrozenModel, ParameterKind, Precision};
use rootstock_model::Checkpoint;
use rootstock_model::packing::WeightPrecision;
use rootstock_train::adapter::{Configuration, LoraSettings, adapter_config, attach};

use crate::bottlenecks::has_the_librarys_gradients;
use crate::cases::{Case, batch, engine, fixture, frozen, gradients, learned, relative_error, samples, tiny};
use crate::full::{has_torchs_gradients, has_torchs_losses};
use crate::golden::{has_the_gradients_of, has_the_tensors_of};
use crate::{bottlenecks, full, pissa};

/// An engine on candle's CPU device.
pub fn candle(model: &FrozenModel, checkpointing: bool, precision: Precision) -> Box<dyn Backend> {
    let settings = Settings {
        target: Target::Cpu,
        precision,
        checkpointing,
        threads: 2,
    };
    Box::new(CandleEngine::new(settings, model).unwrap())
}

fn in_f32(model: &FrozenModel, checkpointing: bool) -> Box<dyn Backend> {
    candle(model, checkpointing, Precision::F32)
}

#[test]
fn every_way_of_training_has_pefts_gradients() {
    for name in ["lora", "rslora-patterns", "dora", "saved-modules", "qlora", "qlora-nf4"] {
        let file = fixture(name).join("expected.safetensors");
        has_the_gradients_of(name, Case::of(name), &file, in_f32);
    }
}

#[test]
fn every_way_of_training_goes_where_peft_does() {
    for name in ["lora", "rslora-patterns", "dora", "saved-modules", "qlora", "qlora-nf4"] {
        has_the_tensors_of(name, in_f32);
    }
}

#[test]
fn bottlenecks_have_the_librarys_gradients() {
    for (name, arch) in [
        ("houlsby", "llama3-rope"),
        ("pfeiffer", "llama3-rope"),
        ("houlsby-some-layers", "qwen3"),
        ("pfeiffer-gpt2", "gpt2"),
    ] {
        has_the_librarys_gradients(name, arch, in_f32);
    }
}

#[test]
fn pairs_that_begin_as_components_have_pefts_gradients_and_go_where_it_does() {
    pissa::begins_as_pefts(in_f32);
    pissa::trains_as_pefts(in_f32);
}

#[test]
fn all_weights_of_a_model_whose_frozen_ones_are_gone_have_torchs_gradients_and_losses() {
    for (arch, tensors) in [("gemma3", 15), ("gpt2", 16)] {
        has_torchs_gradients(arch, tensors, in_f32);
        has_torchs_losses(arch, in_f32);
    }
}

/// DoRA with dropout on all maps of a tiny model beside its embedding and last normalisation; pairs moved from where they begin.
fn trained_on(arch: &str) -> Case {
    let checkpoint = Checkpoint::open(&tiny(arch)).unwrap();
    let model = frozen(&tiny(arch), WeightPrecision::Stored);
    let lora = LoraSettings {
        dora: true,
        saved: ["embed_tokens", "wte", "norm", "ln_f"].map(str::to_owned).to_vec(),
        ..LoraSettings::default()
    };
    let json = adapter_config(&lora, "tiny", checkpoint.hash()).to_string();
    let mut attached = attach(&Configuration::parse(json.as_bytes()).unwrap(), 0.25, &model, 1).unwrap();
    for parameter in attached.parameters.iter_mut() {
        // B begins with zeros, which would leave A without a gradient.
        let shift = if parameter.kind == ParameterKind::LowRankB {
            0.05
        } else {
            0.0
        };
        let values = parameter.values.iter_mut().enumerate();
        values.for_each(|(at, value)| *value += shift * (at as f32 * 1.7).sin());
    }
    Case { model, attached }
}

#[test]
fn every_architecture_has_the_gradients_of_our_own_kernels() {
    let archs = [
        "llama3-rope",
        "llama-bias",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma3",
        "phi3",
        "smollm3",
        "gpt2",
    ];
    let samples = samples();
    for arch in archs {
        let mut case = trained_on(arch);
        let (batch, learned) = (batch(&samples), learned(&samples));
        let (loss, expected) = case.gradients(&mut engine(false, 2), &batch, learned);
        let (got, found) = case.gradients(in_f32(&case.model, false).as_mut(), &batch, learned);
        assert!((got / loss - 1.0).abs() < 1e-5, "{arch}: loss {got}, expected {loss}");
        for (name, expected) in &expected {
            let error = relative_error(&found[name], expected);
            assert!(error < 1e-4, "{arch}: {name} is off by {error:.2e}");
        }
    }
}

#[test]
fn in_bfloat16_gradients_point_where_those_in_f32_do() {
    let samples = samples();
    let (batch, learned) = (batch(&samples), learned(&samples));
    let bottleneck = |name| Case::load(&tiny("llama3-rope"), &bottlenecks::fixture(name));
    for mut case in [
        Case::of("lora"),
        Case::of("dora"),
        bottleneck("houlsby"),
        bottleneck("pfeiffer"),
        pissa::case(None),
        full::case("llama3-rope"),
    ] {
        let (_, expected) = case.gradients(&mut engine(false, 2), &batch, learned);
        let (_, found) = case.gradients(candle(&case.model, false, Precision::Bf16).as_mut(), &batch, learned);
        for (name, expected) in &expected {
            let error = relative_error(&found[name], expected);
            assert!((1e-6..0.1).contains(&error), "{name} is off by {error:.2e}");
        }
    }
}

#[test]
fn steps_repeat_bit_for_bit_and_a_step_without_a_way_back_leaves_gradients_alone() {
    let (mut case, samples) = (Case::of("saved-modules"), samples());
    let mut engine = in_f32(&case.model, true);
    let mut step = || case.gradients(engine.as_mut(), &batch(&samples), learned(&samples));
    let (first, second) = (step(), step());
    assert_eq!(first, second);
    let subject = rootstock_decoder::Subject {
        model: &case.model,
        trained: &case.attached.trained,
        parameters: &mut case.attached.parameters,
    };
    let losses = engine.step(subject, &batch(&samples), None).unwrap();
    let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
    assert_eq!((mean, gradients(&case.attached)), first);
}
