use super::*;

/// Opens part `number` of a llama in three parts, after `change` has had its way with the folder.
fn open(number: usize, change: impl FnOnce(&std::path::Path)) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    File::tiny().write_parts(folder.path(), "tiny", 3);
    change(folder.path());
    Checkpoint::open(&folder.path().join(name(number))).map_err(|error| error.to_string())
}

fn name(number: usize) -> String {
    format!("tiny-{:05}-of-00003.gguf", number + 1)
}

fn refused(number: usize, change: impl FnOnce(&std::path::Path)) -> String {
    open(number, change).err().expect("a refusal")
}

/// Part `number` with other metadata.
fn rewritten(folder: &std::path::Path, number: usize, change: impl FnOnce(&mut File)) {
    let mut part = File::tiny();
    let all = std::mem::take(&mut part.tensors);
    let mine = all.into_iter().enumerate().filter(|(index, _)| index % 3 == number);
    part.tensors = mine.map(|(_, tensor)| tensor).collect();
    if number > 0 {
        part.metadata.clear();
    }
    part.set("split.no", Value::U16(number as u16));
    part.set("split.count", Value::U16(3));
    part.set("split.tensors.count", Value::I32(11));
    change(&mut part);
    part.write(folder, &name(number));
}

#[test]
fn any_part_opens_all() {
    let whole = File::tiny().open().unwrap();
    let hashes = (0..3).map(|number| {
        let model = open(number, |_| {}).unwrap();
        assert_eq!(model.spec(), whole.spec());
        assert_eq!(
            model.norm(NormSite::FeedForward(0)),
            whole.norm(NormSite::FeedForward(0))
        );
        model.hash()
    });
    let hashes: Vec<_> = hashes.collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[0], hashes[2]);
    let folder = tempfile::tempdir().unwrap();
    File::tiny().write_parts(folder.path(), "tiny", 3);
    let bytes = (0..3).flat_map(|number| std::fs::read(folder.path().join(name(number))).unwrap());
    let expected = blake3::hash(&bytes.collect::<Vec<u8>>());
    assert_eq!(hashes[0].to_string(), expected.to_hex().as_str());
}

#[test]
fn a_missing_part_is_named() {
    let message = refused(0, |folder| std::fs::remove_file(folder.join(name(1))).unwrap());
    let expected = "part tiny-00002-of-00003.gguf: is missing: all 3 parts are expected in one folder";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn a_part_by_another_name_cannot_find_the_others() {
    let folder = tempfile::tempdir().unwrap();
    File::tiny().write_parts(folder.path(), "tiny", 3);
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(folder.path().join(name(0)), &renamed).unwrap();
    let message = Checkpoint::open(&renamed).err().expect("a refusal").to_string();
    assert!(
        message.ends_with("the file is not called NAME-00001-of-00003.gguf"),
        "{message}"
    );
}

#[test]
fn parts_that_contradict_each_other_are_named() {
    let copied = refused(0, |folder| {
        std::fs::copy(folder.join(name(1)), folder.join(name(2))).unwrap();
    });
    assert!(
        copied.contains("part tiny-00003-of-00003.gguf: split.*: expected"),
        "{copied}"
    );
    let whole = refused(0, |folder| File::tiny().write(folder, &name(1)));
    assert!(
        whole.contains("part tiny-00002-of-00003.gguf") && whole.contains("a whole model"),
        "{whole}"
    );
    let other = refused(0, |folder| {
        rewritten(folder, 2, |part| part.set("general.architecture", text("qwen2")));
    });
    let expected = "part tiny-00003-of-00003.gguf: general.architecture: differs from that of the first part";
    assert!(other.ends_with(expected), "{other}");
    let twice = refused(0, |folder| {
        rewritten(folder, 1, |part| part.tensor("blk.0.attn_k.weight", &[4, 8], F32));
    });
    assert!(
        twice.contains("part tiny-00002-of-00003.gguf") && twice.contains("blk.0.attn_k.weight"),
        "{twice}"
    );
}

#[test]
fn a_lost_tensor_is_noticed() {
    let message = refused(1, |folder| rewritten(folder, 1, |part| drop(part.tensors.pop_first())));
    assert!(
        message.ends_with("split.tensors.count: expected 10, the tensors of all parts, got 11"),
        "{message}"
    );
}

#[test]
fn a_broken_part_is_named() {
    let message = refused(0, |folder| std::fs::write(folder.join(name(2)), "GGUF").unwrap());
    assert!(message.contains("part tiny-00003-of-00003.gguf: version"), "{message}");
}
