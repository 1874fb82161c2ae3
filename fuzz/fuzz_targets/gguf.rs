//! A GGUF file from a stranger: parsing never panics, and every tensor it reports lies within the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rootstock_formats::gguf::Gguf;

fuzz_target!(|file: &[u8]| {
    if let Ok(gguf) = Gguf::parse(file) {
        for info in gguf.tensors().values() {
            assert!(info.bytes(file).is_some());
        }
        for key in gguf.metadata().keys() {
            let _ = (
                gguf.get_str(key),
                gguf.get_u64(key),
                gguf.get_f32(key),
                gguf.get_bool(key),
            );
            let _ = (gguf.get_strings(key), gguf.get_f32s(key), gguf.get_i32s(key));
        }
    }
});
