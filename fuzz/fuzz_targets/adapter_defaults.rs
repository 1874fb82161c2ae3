//! A rootstock.toml from a stranger: loading the adapter never panics.
#![no_main]

#[allow(dead_code, reason = "each target uses one of them")]
#[path = "../../crates/model/tests/bounded_fuzz/targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;

/// From this crate.
const FIXTURES: &str = "../tests/fixtures";

fuzz_target!(|input: &[u8]| {
    targets::adapter_defaults(input);
});
