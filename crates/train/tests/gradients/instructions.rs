//! The golden tests on every instruction set of this CPU: the environment variable that forces one is read by a process.

use std::process::Command;

use rootstock_kernels::{ISA_VARIABLE, Isa};

#[test]
fn every_instruction_set_of_this_cpu_has_pefts_gradients() {
    let this = std::env::current_exe().unwrap();
    // The best one is what the tests run on by themselves.
    for isa in Isa::available().into_iter().skip(1) {
        let mut command = Command::new(&this);
        let output = command
            .args(["golden::", "--test-threads", "2"])
            .env(ISA_VARIABLE, isa.name())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && out.contains("test result: ok. 18 passed"),
            "{}: {out}",
            isa.name()
        );
    }
}
