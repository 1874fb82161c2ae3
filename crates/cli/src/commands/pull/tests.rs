//! Pulls against a hub that misbehaves on demand, and against pip without a network.

mod mock;

use std::io::Write;

use super::*;
use crate::catalog::{HubFile, WheelMember};
use mock::{Behaviour, MockHub};

const NAME: &str = "model.gguf";

/// A content long enough to be cut in the middle of a transfer.
fn content() -> Vec<u8> {
    (0..300_000u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 16).to_le_bytes())
        .collect()
}

fn hub_source() -> Source {
    Source::Hf(HubFile {
        repo: "org/name".to_owned(),
        revision: "main".to_owned(),
        file: "dir/file name.gguf".to_owned(),
    })
}

fn entry(content: &[u8], sources: Vec<Source>) -> Entry {
    Entry {
        description: "a test".to_owned(),
        licence: "Apache-2.0".to_owned(),
        terms: None,
        files: vec![FileEntry {
            name: NAME.to_owned(),
            size: content.len() as u64,
            sha256: partial::sha256(&mut &*content).unwrap(),
            sources,
        }],
    }
}

fn origins(endpoint: &str, cache: Option<&Path>) -> Origins {
    Origins {
        hub: Hub {
            endpoint: endpoint.to_owned(),
            token: Some("secret".to_owned()),
            cache: cache.map(Path::to_owned),
            offline: false,
        },
        pip: Pip::default(),
    }
}

/// Names of the files that a pull left.
fn left(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

#[test]
fn a_file_of_the_hub_arrives_under_its_name() {
    let hub = MockHub::start(content(), vec![Behaviour::Serve]);
    let dir = tempfile::tempdir().unwrap();
    let files = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
    assert_eq!(left(dir.path()), [NAME]);
    let requests = hub.requests();
    assert!(
        requests[0].starts_with("GET /org/name/resolve/main/dir/file%20name.gguf "),
        "{requests:?}"
    );
    assert!(
        requests[0].to_lowercase().contains("authorization: bearer secret"),
        "{requests:?}"
    );
}

#[test]
fn a_truncated_body_is_resumed_where_it_ended() {
    let hub = MockHub::start(content(), vec![Behaviour::CutAfter(400_000), Behaviour::Serve]);
    let dir = tempfile::tempdir().unwrap();
    let files = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
    let requests = hub.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].to_lowercase().contains("range: bytes="), "{requests:?}");
    assert!(hub.bytes_sent() < content().len() + 400_000, "the file was sent twice");
}

#[test]
fn a_later_pull_goes_on_with_what_an_interrupted_one_left() {
    let dir = tempfile::tempdir().unwrap();
    let entry = entry(&content(), vec![hub_source()]);
    let broken = MockHub::start(content(), vec![Behaviour::CutAfter(500_000), Behaviour::Status(503)]);
    let error = pull(&entry, dir.path(), &origins(&broken.url, None)).unwrap_err();
    assert!(error.to_string().contains("pull again to go on"), "{error}");
    assert_eq!(left(dir.path()), [format!("{NAME}.part")]);

    let hub = MockHub::start(content(), vec![Behaviour::Serve]);
    let files = pull(&entry, dir.path(), &origins(&hub.url, None)).unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
    assert!(hub.bytes_sent() < content().len(), "the whole file was sent again");
    assert_eq!(left(dir.path()), [NAME]);
}

#[test]
fn what_was_left_and_is_wrong_is_fetched_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{NAME}.part")), [7; 1000]).unwrap();
    let hub = MockHub::start(content(), vec![Behaviour::Serve, Behaviour::Serve]);
    let files = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
}

#[test]
fn a_server_without_ranges_sends_the_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{NAME}.part")), &content()[..1000]).unwrap();
    let hub = MockHub::start(content(), vec![Behaviour::IgnoreRange]);
    let files = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
}

#[test]
fn a_bad_checksum_leaves_nothing() {
    let mut other = content();
    other[100] ^= 1;
    let hub = MockHub::start(other, vec![Behaviour::Serve]);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap_err();
    assert!(error.to_string().contains("checksum: expected sha256"), "{error}");
    assert_eq!(left(dir.path()), [""; 0]);
}

#[test]
fn a_longer_file_is_refused_without_reading_it_whole() {
    let hub = MockHub::start([content(), content()].concat(), vec![Behaviour::Serve]);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap_err();
    assert!(error.to_string().contains("got more"), "{error}");
    assert_eq!(left(dir.path()), [""; 0]);
}

#[test]
fn a_missing_file_names_url_and_status() {
    let hub = MockHub::start(content(), vec![Behaviour::Status(404)]);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("404") && error.to_string().contains(&hub.url),
        "{error}"
    );
}

#[test]
fn a_refused_token_says_what_to_set() {
    let hub = MockHub::start(content(), vec![Behaviour::Status(401)]);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins(&hub.url, None),
    )
    .unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}

#[test]
fn the_next_source_is_tried_and_every_reason_told() {
    let hub = MockHub::start(content(), vec![Behaviour::Status(404), Behaviour::Status(404)]);
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    let sources = vec![hub_source(), Source::Path(copy.clone())];
    let models = dir.path().join("models");

    let error = pull(&entry(&content(), sources.clone()), &models, &origins(&hub.url, None)).unwrap_err();
    assert!(
        error.to_string().contains("404") && error.to_string().contains("path "),
        "{error}"
    );

    fs::write(&copy, content()).unwrap();
    let files = pull(&entry(&content(), sources), &models, &origins(&hub.url, None)).unwrap();
    assert!(files[0].origin.starts_with("path "), "{files:?}");
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
}

#[test]
fn a_hub_that_cannot_be_reached_fails_to_the_next_source() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    fs::write(&copy, content()).unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let sources = vec![hub_source(), Source::Path(copy)];
    let origins = origins(&format!("http://{unused}"), None);
    assert!(pull(&entry(&content(), sources), &dir.path().join("models"), &origins).is_ok());
}

#[test]
fn the_hub_cache_is_looked_at_before_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("cache/models--org--name");
    let file = repo.join("snapshots/abc123/dir/file name.gguf");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), "abc123\n").unwrap();
    fs::write(&file, content()).unwrap();
    let hub = MockHub::start(content(), vec![]);
    let origins = origins(&hub.url, Some(&dir.path().join("cache")));
    pull(
        &entry(&content(), vec![hub_source()]),
        &dir.path().join("models"),
        &origins,
    )
    .unwrap();
    assert_eq!(hub.requests(), [""; 0]);
}

#[test]
fn a_file_that_is_there_is_verified_and_kept_and_a_wrong_one_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let entry = entry(&content(), vec![hub_source()]);
    fs::write(dir.path().join(NAME), content()).unwrap();
    let hub = MockHub::start(content(), vec![Behaviour::Serve]);
    let files = pull(&entry, dir.path(), &origins(&hub.url, None)).unwrap();
    assert_eq!((files[0].origin.as_str(), hub.requests().len()), ("already there", 0));

    fs::write(dir.path().join(NAME), "something else").unwrap();
    pull(&entry, dir.path(), &origins(&hub.url, None)).unwrap();
    assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), content());
}

#[test]
fn two_pulls_of_one_model_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let lock = File::create(dir.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    let error = pull(
        &entry(&content(), vec![hub_source()]),
        dir.path(),
        &origins("http://127.0.0.1:1", None),
    );
    assert!(error.unwrap_err().to_string().starts_with("another pull"));
}

/// A wheel that pip accepts, with one data file.
fn write_wheel(dir: &Path, member: &str, content: &[u8]) {
    write_wheel_of("rootstock-test-model", dir, member, content);
}

fn write_wheel_of(package: &str, dir: &Path, member: &str, content: &[u8]) {
    let stem = package.replace('-', "_");
    let info = format!("{stem}-1.0.dist-info");
    let wheel = File::create(dir.join(format!("{stem}-1.0-py3-none-any.whl"))).unwrap();
    let mut zip = zip::ZipWriter::new(wheel);
    let options = zip::write::SimpleFileOptions::default();
    let files = [
        (member.to_owned(), content.to_vec()),
        (
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n").into_bytes(),
        ),
        (
            format!("{info}/WHEEL"),
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_vec(),
        ),
        (format!("{info}/RECORD"), Vec::new()),
    ];
    for (name, bytes) in files {
        zip.start_file(name, options).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn pip_with_links(dir: &Path) -> Origins {
    let environment = vec![
        ("PIP_FIND_LINKS".into(), dir.into()),
        ("PIP_NO_INDEX".into(), "1".into()),
    ];
    Origins {
        pip: Pip {
            environment,
            ..Pip::default()
        },
        ..origins("http://127.0.0.1:1", None)
    }
}

fn wheel_member(package: &str, member: &str) -> WheelMember {
    WheelMember {
        package: package.to_owned(),
        version: "1.0".to_owned(),
        member: member.to_owned(),
    }
}

fn wheel_source(member: &str) -> Source {
    Source::Pypi(wheel_member("rootstock-test-model", member))
}

#[test]
fn the_parts_of_several_wheels_are_joined_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = ("rootstock-test-part-a", "rootstock-test-part-b");
    let parts = vec![
        wheel_member(first, "pkg/model.part0"),
        wheel_member(second, "pkg/model.part1"),
    ];
    let entry = entry(&content(), vec![Source::Wheels(parts)]);
    let origins = pip_with_links(dir.path());
    let models = dir.path().join("models");
    write_wheel_of(first, dir.path(), "pkg/model.part0", &content()[..500_000]);
    let error = pull(&entry, &models, &origins).unwrap_err();
    assert!(error.to_string().contains(second), "{error}");

    write_wheel_of(second, dir.path(), "pkg/model.part1", &content()[500_000..]);
    let files = pull(&entry, &models, &origins).unwrap();
    assert_eq!(files[0].origin, format!("pip {first}==1.0 + {second}==1.0"));
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
}

#[test]
fn terms_of_their_own_are_shown_and_must_be_accepted() {
    let free = entry(&content(), vec![hub_source()]);
    assert!(accept("free", &free, false).is_ok());
    let bound = Entry {
        terms: Some("https://example.com/terms".to_owned()),
        ..free
    };
    let error = accept("bound", &bound, false).unwrap_err();
    assert!(error.is::<UsageError>());
    assert!(error.to_string().contains("https://example.com/terms"), "{error}");
    assert!(error.to_string().contains("--accept-licence"), "{error}");
    assert!(accept("bound", &bound, true).is_ok());
}

#[test]
fn a_member_of_a_wheel_comes_through_pips_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    write_wheel(dir.path(), "pkg/model.gguf", &content());
    let origins = pip_with_links(dir.path());
    let models = dir.path().join("models");
    let files = pull(
        &entry(&content(), vec![wheel_source("pkg/model.gguf")]),
        &models,
        &origins,
    )
    .unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), content());
    assert_eq!(left(&models), [NAME]);
}

#[test]
fn a_wheel_without_the_member_and_a_package_that_is_not_there_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let origins = pip_with_links(dir.path());
    let models = dir.path().join("models");
    let entry = entry(&content(), vec![wheel_source("pkg/other.gguf")]);
    let error = pull(&entry, &models, &origins).unwrap_err();
    assert!(error.to_string().contains("rootstock-test-model"), "{error}");

    write_wheel(dir.path(), "pkg/model.gguf", &content());
    let error = pull(&entry, &models, &origins).unwrap_err();
    assert!(error.to_string().contains("the wheel has no pkg/other.gguf"), "{error}");
}

#[test]
fn a_machine_without_python_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut origins = origins("http://127.0.0.1:1", None);
    origins.pip.python = "no-such-python".into();
    let error = pull(&entry(&content(), vec![wheel_source("x")]), dir.path(), &origins).unwrap_err();
    assert!(error.to_string().contains("no-such-python cannot be run"), "{error}");
}
