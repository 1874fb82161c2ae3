//! Sizes, ranges and how a model is found.

use super::*;

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

fn model(name: &str, models_dir: &Path) -> ModelArgs {
    ModelArgs {
        model: Some(name.to_owned()),
        models_dir: Some(models_dir.to_owned()),
        catalog: None,
    }
}

#[test]
fn a_catalog_name_is_found_once_it_is_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let error = locate(model("smollm2-135m-instruct", dir.path())).unwrap_err();
    assert!(
        error.to_string().contains("run `rootstock pull smollm2-135m-instruct`"),
        "{error}"
    );

    let file = dir.path().join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    let found = locate(model("smollm2-135m-instruct", dir.path())).unwrap();
    assert_eq!(found, (file, "smollm2-135m-instruct".to_owned()));
}

#[test]
fn a_file_goes_by_its_stem() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Tiny.Q4_1.gguf");
    std::fs::write(&file, "").unwrap();
    let (_, name) = locate(model(file.to_str().unwrap(), dir.path())).unwrap();
    assert_eq!(name, "Tiny.Q4_1");
}

#[test]
fn what_is_neither_names_what_there_is() {
    let error = locate(model("no-such-model", Path::new("/"))).unwrap_err();
    assert!(error.to_string().contains("smollm2-135m-instruct"), "{error}");
    assert!(error.is::<UsageError>());
}

#[test]
fn a_folder_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    assert!(folder("adapters", dir.path()).is_ok());
    let error = folder("adapters", &dir.path().join("missing")).unwrap_err();
    assert!(error.to_string().starts_with("--adapters: "), "{error}");
}
