//! Speed of a training step: random tokens, rank 8 on all linear layers, batches of 4 x 256.
//!
//!     cargo bench --bench finetune -- MODEL [--precision f32|bf16] [--checkpointing] [--steps N] [--threads N]
//!                                           [--length N] [--batch N] [--qlora q4|nf4]
//!
//! Prints tokens per second (median step) and the peak resident memory. scripts/peers/finetune_torch.py measures torch with
//! peft on the same.

use std::time::Instant;

use rootstock_decoder::{Batch, Engine, FrozenModel, Learn, StepSettings, Subject};
use rootstock_kernels::Arithmetic;
use rootstock_model::Checkpoint;
use rootstock_model::packing::{Packing, WeightPrecision};
use rootstock_train::adapter::{Configuration, LoraSettings, adapter_config, attach};
use rootstock_train::optimizer::{AdamW, AdamWSettings, Parameter, Step};

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .map(|at| arguments[at + 1].as_str())
    };
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().expect(name));
    let (length, batch, steps) = (number("--length", 256), number("--batch", 4), number("--steps", 8));
    let threads = number("--threads", std::thread::available_parallelism().map_or(1, usize::from));
    let path = arguments.first().expect("the first argument is a model");
    let checkpoint = Checkpoint::open(path.as_ref()).expect("a model");
    let packing = Packing {
        precision: match value("--qlora") {
            None => WeightPrecision::Stored,
            Some("q4") => WeightPrecision::Four,
            Some("nf4") => WeightPrecision::Nf4,
            Some(other) => panic!("--qlora q4 or nf4, not {other}"),
        },
        four_bit_output: false,
        threads,
    };
    let model = FrozenModel::load(&checkpoint, length, packing).expect("a model to train");
    let json = adapter_config(&LoraSettings::default(), "bench", checkpoint.hash()).to_string();
    let config = Configuration::parse(json.as_bytes()).expect("our own configuration");
    let mut attached = attach(&config, 0.0, &model, 1).expect("an adapter");
    // Its mapped file would count as ours.
    drop(checkpoint);
    let settings = StepSettings {
        arithmetic: if value("--precision") == Some("f32") {
            Arithmetic::F32
        } else {
            Arithmetic::Bf16
        },
        checkpointing: arguments.iter().any(|argument| argument == "--checkpointing"),
        threads,
    };
    let mut engine = Engine::new(settings).expect("an engine");
    let groups = attached
        .parameters
        .iter()
        .map(|parameter| Parameter::new(parameter.name.clone(), &parameter.shape));
    let mut optimizer = AdamW::new(AdamWSettings::default(), groups).expect("an optimizer");
    let mut times = Vec::new();
    for step in 0..steps {
        let tokens = tokens(step, batch, length, model.spec().vocab_size);
        let start = Instant::now();
        let learn = Learn {
            weight: 1.0 / tokens.targets().len() as f32,
            dropout_key: step as u64,
        };
        attached.parameters.clear_gradients();
        let subject = Subject {
            model: &model,
            trained: &attached.trained,
            parameters: &mut attached.parameters,
        };
        let losses = engine.step(subject, &tokens, Some(learn));
        for (index, parameter) in attached.parameters.iter_mut().enumerate() {
            let update = optimizer.update(index, &mut parameter.values, &parameter.gradient, Step::new(1e-4));
            update.expect("a step");
        }
        times.push(start.elapsed().as_secs_f64());
        let loss = losses.iter().sum::<f32>() / losses.len() as f32;
        eprintln!("step {step}: loss {loss:.4}, {:.0} ms", times[step] * 1e3);
    }
    times.drain(..times.len().min(2));
    times.sort_by(f64::total_cmp);
    let rate = (batch * length) as f64 / times[times.len() / 2];
    println!("{{\"tokens_per_second\": {rate:.1}, \"peak_mib\": {}}}", peak_mib());
}

fn tokens(step: usize, batch: usize, length: usize, vocabulary: usize) -> Batch {
    let mut random = fastrand::Rng::with_seed(step as u64);
    let mut all = Batch::default();
    for _ in 0..batch {
        let ids: Vec<u32> = (0..length).map(|_| random.u32(..vocabulary as u32)).collect();
        all.push(&ids, &vec![true; length]);
    }
    all
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
