//! A bounded fuzz run with a fixed seed: mutated valid inputs and inputs made to be dear never panic a parser, and what it
//! allocates stays below a constant times the input's size plus a constant.

mod mutate;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mutate::Mutator;
use peak_alloc::PeakAlloc;
use rootstock_formats::adapterhub::BottleneckConfig;
use rootstock_formats::gguf::Gguf;
use rootstock_formats::peft::{AdapterConfig, ModuleKind};
use rootstock_formats::safetensors::SafeTensors;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The counters are the process's: one test at a time, from before it builds its inputs.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MUTATED_INPUTS: usize = 30_000;

/// What a parser may allocate: `per_byte * input + constant` bytes.
struct Bound {
    per_byte: usize,
    constant: usize,
}

/// An array of empty strings takes 8 bytes each in the file and 24 in memory; the rest is the tensor table and slack of growing.
const GGUF: Bound = Bound {
    per_byte: 16,
    constant: 64 << 10,
};
/// A dimension takes 2 bytes in the header and 8 in memory, while the list grows 24.
const SAFETENSORS: Bound = Bound {
    per_byte: 32,
    constant: 64 << 10,
};
/// A list item takes 2 bytes in the file and, while it is told apart from a single value, 32 in memory and up to 96 while the list
/// grows. The constant is the budget of compiled expressions.
const CONFIG: Bound = Bound {
    per_byte: 64,
    constant: 24 << 20,
};

/// A list of one number takes 4 bytes in the file; in memory 80 for itself, three times that while the list around it grows, and room for
/// four numbers.
const VALUES: Bound = Bound {
    per_byte: 256,
    constant: 64 << 10,
};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs `parse` on `input` and returns whether it accepted it.
fn within(bound: &Bound, input: &[u8], parse: fn(&[u8]) -> bool) -> bool {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let accepted = parse(input);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    let most = bound.per_byte * input.len() + bound.constant;
    let start = String::from_utf8_lossy(&input[..input.len().min(200)]);
    assert!(
        peak <= most,
        "{peak} bytes for {} of input, at most {most}: {start:?}",
        input.len()
    );
    accepted
}

/// Mutates the seeds of `target`; some results must be accepted and some refused, or the run would show nothing.
fn fuzz(target: &str, bound: &Bound, parse: fn(&[u8]) -> bool) {
    let seeds = seeds(target);
    for seed in &seeds {
        assert!(within(bound, seed, parse), "a seed of {target} is not valid");
    }
    let mut mutator = Mutator::new(0x5eed);
    let mut accepted = 0;
    for _ in 0..MUTATED_INPUTS {
        let input = mutator.mutated(&seeds);
        accepted += usize::from(within(bound, &input, parse));
    }
    assert!(
        (1..MUTATED_INPUTS).contains(&accepted),
        "{accepted} of {MUTATED_INPUTS} accepted"
    );
}

/// Runs inputs that are as dear as their format allows.
fn dear(bound: &Bound, inputs: &[Vec<u8>], parse: fn(&[u8]) -> bool) {
    for input in inputs {
        within(bound, input, parse);
    }
}

fn parse_gguf(input: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(input) else {
        return false;
    };
    gguf.tensors()
        .values()
        .for_each(|info| assert!(info.bytes(input).is_some()));
    true
}

fn parse_safetensors(input: &[u8]) -> bool {
    let Ok(parsed) = SafeTensors::parse(input) else {
        return false;
    };
    parsed
        .tensors()
        .values()
        .for_each(|info| assert!(info.bytes(input).is_some()));
    true
}

fn parse_config(input: &[u8]) -> bool {
    let Ok(config) = AdapterConfig::parse(input) else {
        return false;
    };
    for module in ["model.layers.0.self_attn.q_proj", "model.layers.13.mlp.down_proj", ""] {
        let _ = (config.targets(module, ModuleKind::Linear), config.scale_for(module));
        assert!(config.rank_for(module) > 0);
    }
    true
}

fn parse_bottleneck_config(input: &[u8]) -> bool {
    let Ok(config) = BottleneckConfig::parse(input) else {
        return false;
    };
    let mut widths = (0..40).filter_map(|layer| config.width(layer, 576).ok().flatten());
    assert!(widths.all(|width| (1..=576 * 16).contains(&width)));
    true
}

#[test]
fn mutated_bottleneck_configurations_stay_within_bounds() {
    let _alone = alone();
    fuzz("bottleneck_config", &VALUES, parse_bottleneck_config);
    let list = |item: &str| format!("{{\"config\": [{}]}}", vec![item; 20_000].join(","));
    let dear_ones = ["0", "[]", "[0]", "{}", "\"\""].map(|item| list(item).into_bytes());
    dear(&VALUES, &dear_ones, parse_bottleneck_config);
}

#[test]
fn mutated_gguf_files_stay_within_bounds() {
    let _alone = alone();
    fuzz("gguf", &GGUF, parse_gguf);
}

#[test]
fn mutated_safetensors_files_stay_within_bounds() {
    let _alone = alone();
    fuzz("safetensors_header", &SAFETENSORS, parse_safetensors);
}

#[test]
fn mutated_adapter_configs_stay_within_bounds() {
    let _alone = alone();
    fuzz("adapter_config", &CONFIG, parse_config);
}

#[test]
fn dear_gguf_files_stay_within_bounds() {
    let _alone = alone();
    let head =
        |tensors: u64, pairs: u64| [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &pairs.to_le_bytes()].concat();
    let array = |kind: u32, count: u64, items: Vec<u8>| {
        let start = [head(0, 1), 1u64.to_le_bytes().to_vec(), vec![b'k', 9, 0, 0, 0]].concat();
        [start, kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), items].concat()
    };
    let count = 100_000u64;
    // One f32 each, 32 bytes apart.
    let entry = |n: u64| {
        let name = format!("{n:x}");
        let start = [
            &(name.len() as u64).to_le_bytes()[..],
            name.as_bytes(),
            &1u32.to_le_bytes(),
            &1u64.to_le_bytes(),
        ];
        [
            start.concat(),
            0u32.to_le_bytes().to_vec(),
            (32 * n).to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let mut table = [head(count, 0), (0..count).flat_map(entry).collect()].concat();
    table.resize(table.len().next_multiple_of(32) + 32 * count as usize, 0);
    assert!(parse_gguf(&table));
    let letters = |n: u64| {
        [
            &2u64.to_le_bytes()[..],
            &[b'a' + (n / 26 % 26) as u8, b'a' + (n % 26) as u8],
            &[7, 0, 0, 0, 1],
        ]
        .concat()
    };
    dear(
        &GGUF,
        &[
            array(8, count, vec![0; 8 * count as usize]),
            array(9, count, vec![0; 12 * count as usize]),
            array(7, count, vec![1; count as usize]),
            array(8, u64::MAX / 8, vec![0; 1000]),
            table,
            [head(0, 600), (0..600).flat_map(letters).collect()].concat(),
        ],
        parse_gguf,
    );
}

#[test]
fn dear_safetensors_headers_stay_within_bounds() {
    let _alone = alone();
    let file = |header: String| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let tensors: Vec<String> = (0..20_000).map(|n| format!("\"{n}\":{empty}")).collect();
    let notes: Vec<String> = (0..20_000).map(|n| format!("\"{n}\":\"\"")).collect();
    let dimensions = format!(
        r#"{{"w":{{"dtype":"F32","data_offsets":[0,0],"shape":[0{}]}}}}"#,
        ",0".repeat(100_000)
    );
    let inputs = [
        format!("{{{}}}", tensors.join(",")),
        format!(r#"{{"__metadata__":{{{}}}}}"#, notes.join(",")),
        dimensions,
        "[".repeat(100_000),
        r#"{"a":"#.repeat(50_000),
        format!(r#"{{"{}":1}}"#, "a".repeat(100_000)),
        format!(r#"{{"{}":{empty}}}"#, r"\u00e9".repeat(20_000)),
    ];
    dear(&SAFETENSORS, &inputs.map(file), parse_safetensors);
}

#[test]
fn dear_adapter_configs_stay_within_bounds() {
    let _alone = alone();
    let config = |field: String| format!(r#"{{"peft_type":"LORA","target_modules":["q_proj"],{field}}}"#).into_bytes();
    let names = |count: usize| (0..count).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",");
    let expressions = |expression: &str| {
        let keys: Vec<String> = (0..64).map(|n| format!("\"{expression}{n}\":1")).collect();
        config(format!("\"rank_pattern\":{{{}}}", keys.join(",")))
    };
    let inputs = [
        config(format!("\"layers_to_transform\":[0{}]", ",0".repeat(200_000))),
        config(format!("\"exclude_modules\":[\"\"{}]", ",\"\"".repeat(200_000))),
        config(format!("\"rank_pattern\":{{{}}}", names(50_000))),
        config(format!("\"unknown\":{}", "[".repeat(200_000))),
        config(format!("\"unknown\":{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        config(names(50_000)),
        config((0..50_000).map(|n| format!("\"{n}\":[]")).collect::<Vec<_>>().join(",")),
        expressions("(a|b)*c{40}"),
        expressions(r"\\w+\\.\\d+\\..*"),
        expressions("([a-z]{20}){30}"),
        expressions("(?u)\\\\w\\\\w"),
        expressions("((a{30}){30}){30}"),
        expressions("(.*(.*(.*(.*))))"),
    ];
    dear(&CONFIG, &inputs, parse_config);
}
