//! How models are found and what they are called.

use std::fs;

use super::*;

fn models(dir: &Path) -> Models {
    Models {
        catalog: Catalog::open(None).unwrap(),
        dir: Some(dir.to_owned()),
    }
}

const PULLED: &str = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

fn write(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

#[test]
fn a_catalog_name_is_found_once_it_is_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let name = Some("smollm2-135m-instruct");
    let error = models(dir.path()).locate(name).unwrap_err();
    assert!(
        error.to_string().contains("run `rootstock pull smollm2-135m-instruct`"),
        "{error}"
    );
    let path = dir.path().join(PULLED);
    write(&path);
    let found = models(dir.path()).locate(name).unwrap();
    assert_eq!((found.path, found.name.as_str()), (path, "smollm2-135m-instruct"));
}

#[test]
fn files_and_folders_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let name = |path: &str, file: &str| {
        let path = dir.path().join(path);
        write(&path.join(file));
        let model = if file == "config.json" { path } else { path.join(file) };
        models(dir.path()).locate(model.to_str()).unwrap().name
    };
    assert_eq!(name("a", "Tiny.Q4_1.gguf"), "Tiny.Q4_1");
    assert_eq!(name("a", "tiny-00002-of-00003.gguf"), "tiny");
    assert_eq!(name("a", "tiny-2-of-3.gguf"), "tiny-2-of-3");
    assert_eq!(name("Tiny-1.5B", "config.json"), "Tiny-1.5B");
    assert_eq!(name("models--org--tiny/snapshots/abc123", "config.json"), "tiny");
}

#[test]
fn what_a_run_wrote_into_its_folder_is_found_there_and_bears_the_runs_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("mails");
    write(&run.join("model/config.json"));
    write(&run.join("adapter/adapter_config.json"));
    let found = models(dir.path()).locate(run.to_str()).unwrap();
    assert_eq!((found.path, found.name.as_str()), (run.join("model"), "mails"));
    for given in [run.clone(), run.join("adapter")] {
        let found = locate_adapter(&given, None).unwrap();
        assert_eq!((found.path, found.name.as_str()), (run.join("adapter"), "mails"));
    }
    write(&run.join("adapter_config.json"));
    assert_eq!(
        locate_adapter(&run, None).unwrap().path,
        run,
        "what lies in the folder itself wins"
    );
}

#[test]
fn an_adapter_is_a_name_in_the_folder_or_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let adapters = dir.path().join("adapters");
    write(&adapters.join("spam/adapter_config.json"));
    write(&adapters.join("style.gguf"));
    write(&dir.path().join("beside/adapter_config.json"));
    let found = |adapter: &str| locate_adapter(adapter.as_ref(), Some(&adapters)).unwrap();
    let beside = dir.path().join("beside");
    for (adapter, path, name) in [
        ("spam", adapters.join("spam"), "spam"),
        ("style", adapters.join("style.gguf"), "style"),
        ("style.gguf", adapters.join("style.gguf"), "style"),
        (beside.to_str().unwrap(), beside.clone(), "beside"),
    ] {
        let name = name.to_owned();
        assert_eq!(found(adapter), Located { path, name });
    }
    let error = locate_adapter("nobody".as_ref(), Some(&adapters)).unwrap_err();
    assert!(
        error.is::<UsageError>() && error.to_string().contains("nor in"),
        "{error}"
    );
}

#[test]
fn what_is_neither_names_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let locate = |model: &str| models(dir.path()).locate(Some(model)).unwrap_err();
    let error = locate("no-such-model");
    assert!(error.to_string().contains("smollm2-135m-instruct"), "{error}");
    assert!(error.is::<UsageError>());
    let error = locate(dir.path().to_str().unwrap());
    assert!(error.to_string().contains("a folder without config.json"), "{error}");
    assert!(models(dir.path()).locate(None).is_err());
}

#[test]
fn a_replacement_lies_beside_the_first_model_or_below_a_root_or_was_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for path in [
        "served/first.gguf",
        "served/second.gguf",
        "further/deep/folder/config.json",
        "outside/x.gguf",
    ] {
        write(&root.join(path));
    }
    write(&root.join("pulled").join(PULLED));
    let replacements = |first: &str| {
        let further = vec![root.join("further")];
        Replacements::new(models(&root.join("pulled")), &root.join(first), further)
    };
    let from_file = replacements("served/first.gguf");
    let found = |model: &str| from_file.find(model);
    let at = |path: &str| Some(root.join(path));
    assert_eq!(found("second.gguf"), at("served/second.gguf"));
    assert_eq!(
        found(root.join("served/first.gguf").to_str().unwrap()),
        at("served/first.gguf")
    );
    assert_eq!(found("deep/folder"), at("further/deep/folder"));
    assert_eq!(found("smollm2-135m-instruct"), at(&format!("pulled/{PULLED}")));
    assert_eq!(found(PULLED), at(&format!("pulled/{PULLED}")));
    let outside = root.join("outside/x.gguf");
    for model in [
        "",
        ".",
        "..",
        "/",
        "\0",
        "x.gguf",
        "deep",
        "../outside/x.gguf",
        outside.to_str().unwrap(),
    ] {
        assert_eq!(found(model), None, "{model:?}");
    }
    let from_folder = replacements("further/deep/folder");
    assert_eq!(from_folder.find("folder"), at("further/deep/folder"));
    assert_eq!(from_folder.find("../../served/first.gguf"), None);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_counts_as_where_it_leads_and_one_to_a_file_as_itself() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    write(&root.join("blobs/abc"));
    write(&root.join("outside/folder/config.json"));
    fs::create_dir(root.join("served")).unwrap();
    symlink(root.join("blobs/abc"), root.join("served/model.gguf")).unwrap();
    symlink(root.join("outside"), root.join("served/out")).unwrap();
    let replacements = Replacements::new(models(&root.join("none")), &root.join("served/model.gguf"), Vec::new());
    assert_eq!(replacements.find("model.gguf"), Some(root.join("served/model.gguf")));
    assert_eq!(replacements.find("out/folder"), None);
    assert_eq!(replacements.find("abc"), None);
}
