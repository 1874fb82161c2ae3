//! Sizes, ranges and folders.

use rootstock_model::adapter::SamplingDefaults;

use super::*;
use crate::args::SamplingArgs;

fn size(text: &str) -> Option<u64> {
    text.parse().ok().map(|ByteSize(bytes)| bytes)
}

#[test]
fn sizes_take_decimal_and_binary_units() {
    assert_eq!(size("4096"), Some(4096));
    assert_eq!(size("512MB"), Some(512_000_000));
    assert_eq!(size("1GiB"), Some(1 << 30));
    assert_eq!(size("1.5 gib"), Some(3 << 29));
    assert_eq!(size("7b"), Some(7));
}

#[test]
fn sizes_refuse_what_is_none() {
    for text in ["", "GiB", "-1MB", "1 apple", "1..5GB", ".", "9999999999999TB"] {
        assert_eq!(size(text), None, "{text:?}");
    }
}

#[test]
fn ranges_refuse_outsiders_and_nan() {
    assert!(within("top-p", 1.0, 0.0, 1.0).is_ok());
    assert!(within("top-p", f32::NAN, 0.0, 1.0).is_err());
    let error = within("threads", 0, 1, 1024).unwrap_err();
    assert_eq!(error.to_string(), "--threads: expected 1 to 1024, got 0");
}

#[test]
fn names_and_scales_that_nothing_can_come_of_are_refused() {
    assert_eq!(adapter_scale(-0.5).unwrap(), -0.5);
    let error = adapter_scale(f32::NAN).unwrap_err();
    assert_eq!(error.to_string(), "--adapter-scale: expected a finite number, got NaN");
    assert!(adapter_scale("inf".parse().unwrap()).is_err());
    assert_eq!(served_name("org/model".to_owned()).unwrap(), "org/model");
    for name in ["", "a,b", "a\nb", &"x".repeat(257)] {
        let error = served_name(name.to_owned()).unwrap_err();
        assert!(error.is::<UsageError>(), "{error}");
    }
}

#[test]
fn a_folder_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    assert!(folder("adapters", dir.path()).is_ok());
    let error = folder("adapters", &dir.path().join("missing")).unwrap_err();
    assert!(error.to_string().starts_with("--adapters: "), "{error}");
}

#[test]
fn an_argument_wins_over_the_adapters_default_and_that_over_the_commands() {
    let asked = GenerationSettings::new(SamplingArgs {
        temperature: Some(0.5),
        seed: Some(u64::MAX),
        ..SamplingArgs::default()
    });
    let settings = asked.unwrap();
    let defaults = SamplingDefaults {
        temperature: Some(1.5),
        top_k: Some(-1),
        max_tokens: Some(7),
        stop: Some(vec!["end".to_owned()]),
        ..SamplingDefaults::default()
    };
    let settled = settings.settle(&defaults);
    assert_eq!((settled.sampling.temperature, settled.max_tokens), (0.5, 7));
    assert_eq!((settled.sampling.seed, settled.sampling.top_k), (u64::MAX, None));
    assert_eq!(settled.stop, ["end"]);
    let plain = settings.settle(&SamplingDefaults::default());
    assert_eq!((plain.max_tokens, plain.sampling.top_p), (DEFAULT_MAX_TOKENS, 1.0));
    let args = SamplingArgs {
        top_p: Some(1.5),
        ..SamplingArgs::default()
    };
    let error = GenerationSettings::new(args).unwrap_err();
    assert_eq!(error.to_string(), "--top-p: expected 0 to 1, got 1.5");
}
