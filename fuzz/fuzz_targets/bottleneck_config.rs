//! An AdapterHub adapter_config.json from a stranger: parsing never panics, widths are positive and bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rootstock_formats::adapterhub::BottleneckConfig;

fuzz_target!(|json: &[u8]| {
    if let Ok(config) = BottleneckConfig::parse(json) {
        let mut widths = (0..40).filter_map(|layer| config.width(layer, 576).ok().flatten());
        assert!(widths.all(|width| (1..=576 * 16).contains(&width)));
    }
});
