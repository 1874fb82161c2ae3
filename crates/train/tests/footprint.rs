//! What a step is said to take in memory is what it takes, on every architecture of the tiny checkpoints.

use std::path::Path;

use rootstock_decoder::{Batch, Engine, FrozenModel, Learn, StepSettings, StepShapes, Subject};
use rootstock_kernels::Arithmetic;
use rootstock_model::Checkpoint;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_train::adapter::{
    Attached, BottleneckKind, BottleneckSettings, Configuration, LoraSettings, Targets, adapter_config, attach,
    bottleneck_config,
};
use rootstock_train::full::attach_all;
use serde_json::Value;

const ARCHITECTURES: [&str; 9] = [
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

/// All ways to go about a step.
const WAYS: [(Arithmetic, bool); 4] = [
    (Arithmetic::F32, false),
    (Arithmetic::F32, true),
    (Arithmetic::Bf16, false),
    (Arithmetic::Bf16, true),
];

fn model(arch: &str) -> (FrozenModel, Checkpoint) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tiny")
        .join(arch);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let packing = Packing {
        precision: WeightPrecision::Stored,
        four_bit_output: false,
        threads: 1,
    };
    (FrozenModel::load(&checkpoint, 128, packing).unwrap(), checkpoint)
}

fn whole(arch: &str) -> (FrozenModel, Attached) {
    let (mut model, _) = model(arch);
    let attached = attach_all(&mut model).unwrap();
    (model, attached)
}

/// A base, and what a configuration trains on it.
fn subject(arch: &str, config: impl Fn(&Checkpoint) -> Value) -> (FrozenModel, Attached) {
    let (model, checkpoint) = model(arch);
    let config = Configuration::parse(config(&checkpoint).to_string().as_bytes()).unwrap();
    let attached = attach(&config, 0.0, &model, 1).unwrap();
    (model, attached)
}

fn pairs(lora: &LoraSettings) -> impl Fn(&Checkpoint) -> Value {
    |checkpoint| adapter_config(lora, "tiny", checkpoint.hash())
}

fn bottlenecks(kind: BottleneckKind) -> impl Fn(&Checkpoint) -> Value {
    let settings = BottleneckSettings {
        kind,
        reduction_factor: 4.0,
        non_linearity: None,
        left_out: Vec::new(),
    };
    move |checkpoint| bottleneck_config(&settings, checkpoint.spec(), "tiny", checkpoint.hash())
}

/// `rows` sequences of `length` tokens, all learned.
fn batch(rows: usize, length: usize) -> Batch {
    let mut batch = Batch::default();
    for row in 0..rows {
        let tokens: Vec<u32> = (0..length).map(|at| ((row * 31 + at * 7) % 256) as u32).collect();
        batch.push(&tokens, &vec![true; length]);
    }
    batch
}

fn step(engine: &mut Engine, (model, attached): &mut (FrozenModel, Attached), batch: &Batch) {
    let learn = Learn {
        weight: 1.0,
        dropout_key: 0,
    };
    let subject = Subject {
        model,
        trained: &attached.trained,
        parameters: &mut attached.parameters,
    };
    engine.step(subject, batch, Some(learn));
}

fn settings(arithmetic: Arithmetic, checkpointing: bool) -> StepSettings {
    StepSettings {
        arithmetic,
        checkpointing,
        threads: 1,
    }
}

/// What was kept, by what was said.
fn ratio(engine: &Engine, (model, attached): &(FrozenModel, Attached), batch: &Batch) -> f64 {
    let shapes = StepShapes::new(model.spec(), &attached.trained, &attached.parameters, engine.settings());
    let footprint = shapes.footprint(batch.tokens().len(), batch.targets().len());
    engine.kept_bytes() as f64 / footprint.bytes() as f64
}

#[test]
fn a_step_takes_what_its_footprint_says() {
    let some = LoraSettings {
        targets: Targets::Names(vec!["o_proj".to_owned(), "c_proj".to_owned()]),
        dora: true,
        ..LoraSettings::default()
    };
    let mut ratios = Vec::new();
    for arch in ARCHITECTURES {
        let subjects = [
            ("LoRA", subject(arch, pairs(&LoraSettings::default()))),
            ("DoRA", subject(arch, pairs(&some))),
            ("all weights", whole(arch)),
        ];
        for (what, mut subject) in subjects {
            for (arithmetic, checkpointing) in WAYS {
                let mut engine = Engine::new(settings(arithmetic, checkpointing)).unwrap();
                let batch = batch(4, 100);
                step(&mut engine, &mut subject, &batch);
                let ratio = ratio(&engine, &subject, &batch);
                let named = format!("{arch}, {what}, {arithmetic:?}, checkpointing {checkpointing}: {ratio:.2}");
                ratios.push((ratio, named));
            }
        }
    }
    for kind in [BottleneckKind::Houlsby, BottleneckKind::Pfeiffer] {
        for (arithmetic, checkpointing) in WAYS {
            let mut engine = Engine::new(settings(arithmetic, checkpointing)).unwrap();
            let (mut subject, batch) = (subject("mistral", bottlenecks(kind)), batch(4, 100));
            step(&mut engine, &mut subject, &batch);
            let ratio = ratio(&engine, &subject, &batch);
            ratios.push((
                ratio,
                format!("{kind:?}, {arithmetic:?}, checkpointing {checkpointing}: {ratio:.2}"),
            ));
        }
    }
    assert!(
        ratios.iter().all(|(ratio, _)| (0.75..1.25).contains(ratio)),
        "{ratios:#?}"
    );
}

#[test]
fn short_steps_leave_nothing_beside_a_long_one_nor_long_ones_beside_a_short_one() {
    let mut engine = Engine::new(settings(Arithmetic::F32, false)).unwrap();
    let mut subject = subject("mistral", pairs(&LoraSettings::default()));
    for rows in [1, 2, 4, 7, 12, 5, 1] {
        let batch = batch(rows, 100);
        step(&mut engine, &mut subject, &batch);
        let ratio = ratio(&engine, &subject, &batch);
        // What was given back is that of other sizes; up to twice as much is kept, so that steps of like sizes use it again.
        assert!(ratio < 2.3, "{rows} rows: {ratio}");
    }
    let largest = batch(12, 100);
    step(&mut engine, &mut subject, &largest);
    let ratio = ratio(&engine, &subject, &largest);
    assert!(ratio < 1.25, "{ratio}");
}

#[test]
fn steps_of_one_size_take_no_more_after_the_first() {
    for (arithmetic, checkpointing) in WAYS {
        let mut engine = Engine::new(settings(arithmetic, checkpointing)).unwrap();
        let (mut subject, batch) = (subject("qwen3", pairs(&LoraSettings::default())), batch(3, 100));
        let mut kept = (0..4).map(|_| {
            step(&mut engine, &mut subject, &batch);
            engine.kept_bytes()
        });
        let first = kept.next();
        assert!(
            kept.all(|bytes| Some(bytes) == first),
            "{arithmetic:?}, checkpointing {checkpointing}"
        );
    }
}
