//! A safetensors file from a stranger: parsing never panics, and the tensors fill the file exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rootstock_formats::safetensors::SafeTensors;

fuzz_target!(|file: &[u8]| {
    if let Ok(parsed) = SafeTensors::parse(file) {
        let bytes: usize = parsed
            .tensors()
            .values()
            .map(|info| info.bytes(file).unwrap().len())
            .sum();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(8 + header + bytes, file.len());
    }
});
