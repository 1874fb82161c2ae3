//! A chat template from a stranger: compiling and rendering never panic and come to an end.
#![no_main]

#[allow(dead_code, reason = "each target uses one of them")]
#[path = "../../crates/model/tests/bounded_fuzz/targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;

/// From this crate.
const FIXTURES: &str = "../tests/fixtures";

fuzz_target!(|input: &[u8]| {
    targets::chat_template(input);
});
