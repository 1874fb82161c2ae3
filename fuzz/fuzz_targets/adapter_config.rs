//! An adapter_config.json from a stranger: parsing and matching never panic, ranks are positive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rootstock_formats::peft::{AdapterConfig, ModuleKind};

fuzz_target!(|json: &[u8]| {
    if let Ok(config) = AdapterConfig::parse(json) {
        for module in [
            "model.layers.0.self_attn.q_proj",
            "model.layers.13.mlp.down_proj",
            "",
            ".",
        ] {
            let _ = (config.targets(module, ModuleKind::Linear), config.scale_for(module));
            assert!(config.rank_for(module) > 0);
        }
    }
});
