//! A bounded fuzz run with a fixed seed over everything of models and adapters that strangers write: nothing panics, and what is
//! allocated stays below a constant times the input's size plus a constant.

#[path = "../../../formats/tests/bounded_fuzz/mutate.rs"]
mod mutate;
mod targets;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mutate::Mutator;
use peak_alloc::PeakAlloc;

/// From the crate that includes the targets.
pub const FIXTURES: &str = "../../tests/fixtures";

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The counters are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Inputs of one target, unless ROOTSTOCK_FUZZ_INPUTS names another number.
const MUTATED_INPUTS: usize = 2_000;
/// Bytes that one input may take beyond 256 times its own: a model's buffers, a compiled expression, a rendering's output.
const CONSTANT: usize = 64 << 20;
/// What no input may take, however slow the machine.
const LONGEST: Duration = Duration::from_secs(20);

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn within(input: &[u8], read: fn(&[u8]) -> bool) -> bool {
    let (before, start) = (ALLOCATOR.current_usage(), Instant::now());
    ALLOCATOR.reset_peak_usage();
    let accepted = read(input);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    let shown = String::from_utf8_lossy(&input[..input.len().min(400)]);
    assert!(
        peak <= 256 * input.len() + CONSTANT,
        "{peak} bytes for {}: {shown:?}",
        input.len()
    );
    assert!(start.elapsed() < LONGEST, "{:?} for {shown:?}", start.elapsed());
    accepted
}

/// Mutates the seeds of `target`; some results must be accepted and some refused, or the run would show nothing.
fn fuzz(target: &str, read: fn(&[u8]) -> bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seeds = seeds(target);
    for (number, seed) in seeds.iter().enumerate() {
        assert!(read(seed), "seed {number} of {target} is refused");
    }
    let count = std::env::var("ROOTSTOCK_FUZZ_INPUTS").map_or(MUTATED_INPUTS, |count| count.parse().unwrap());
    let mut mutator = Mutator::new(0x5eed);
    let inputs = (0..count).map(|_| mutator.mutated(&seeds));
    let accepted = inputs.filter(|input| within(input, read)).count();
    println!("{target}: {accepted} of {count} accepted");
    assert!((1..count).contains(&accepted), "{accepted} of {count} accepted");
}

macro_rules! targets {
    ($($target:ident)*) => { $(#[test] fn $target() { fuzz(stringify!($target), targets::$target); })* };
}

targets! {
    hf_config
    hf_config_gpt2
    safetensors_index
    gguf_model
    gguf_adapter
    adapter_folder
    adapter_defaults
    tokenizer_json
    tokenizer_config
    gguf_tokenizer
    chat_template
}
