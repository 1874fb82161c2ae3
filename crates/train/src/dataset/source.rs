//! Which files of a data set are which split, as Hugging Face's datasets tells them: by their names, `train-00000.parquet`,
//! `my.valid.jsonl`. One file, and a folder whose names tell no split, are all `train`.

use std::path::{Path, PathBuf};

use super::Slice;
use super::files::{Row, files, read_files};
use crate::TrainError;

/// Splits, with the words in file names that tell them.
const SPLITS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
const TRAIN: &str = "train";

/// Reads the rows of a slice from a file, or from the files of its split in a folder.
///
/// # Errors
/// As [`super::read`]; a split that the files do not have; a file of no split beside others that have one; a slice without
/// rows.
pub fn load(path: &Path, slice: &Slice) -> Result<Vec<Row>, TrainError> {
    load_each(path, slice)?.into_iter().collect()
}

/// As [`load`], with what is wrong with a row in its place.
///
/// # Errors
/// As [`load`], but for rows that cannot be read.
pub fn load_each(path: &Path, slice: &Slice) -> Result<Vec<Result<Row, TrainError>>, TrainError> {
    let mut rows = read_files(path, &split_files(path, &slice.split)?)?;
    let range = slice.of(rows.len())?;
    rows.truncate(range.end);
    rows.drain(..range.start);
    Ok(rows)
}

/// The files of a split.
fn split_files(path: &Path, split: &str) -> Result<Vec<PathBuf>, TrainError> {
    let found = files(path)?;
    let wanted = name(split).unwrap_or(split);
    let fault = |what: String| Err(TrainError::Dataset(format!("{}: {what}", path.display())));
    let named: Vec<_> = found.iter().map(|file| of_file(file)).collect();
    if !path.is_dir() || named.iter().all(Option::is_none) {
        return match wanted {
            TRAIN => Ok(found),
            _ => fault(format!(
                "expected a split {split:?}, but all of it is {TRAIN:?}: slice that, as in train[90%:]"
            )),
        };
    }
    if let Some(at) = named.iter().position(Option::is_none) {
        let file = found[at].display();
        return fault(format!(
            "the names of other files tell their split, that of {file} does not; rename or remove it"
        ));
    }
    let known = SPLITS
        .map(|(split, _)| split)
        .into_iter()
        .filter(|split| named.contains(&Some(split)));
    let known: Vec<_> = known.collect();
    if !known.contains(&wanted) {
        return fault(format!(
            "expected a split {split:?}; its files are {}",
            known.join(", ")
        ));
    }
    let files = found
        .into_iter()
        .zip(&named)
        .filter(|(_, named)| **named == Some(wanted));
    Ok(files.map(|(file, _)| file).collect())
}

/// The split that a file's name tells.
fn of_file(file: &Path) -> Option<&'static str> {
    let stem = file.file_stem()?.to_str()?;
    stem.split(|letter: char| !letter.is_alphabetic()).find_map(name)
}

/// The split that a word stands for.
fn name(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let (split, _) = SPLITS.iter().find(|(_, words)| words.contains(&word.as_str()))?;
    Some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let rows = [0, 1].map(|row| format!("{{\"text\": \"{name} {row}\"}}\n"));
            std::fs::write(folder.path().join(name), rows.concat()).unwrap();
        }
        folder
    }

    fn texts(folder: &tempfile::TempDir, slice: &str) -> Result<Vec<String>, String> {
        let rows = load(folder.path(), &slice.parse().unwrap()).map_err(|error| error.to_string())?;
        Ok(rows
            .iter()
            .map(|row| row.fields["text"].as_str().unwrap().to_owned())
            .collect())
    }

    #[test]
    fn names_of_files_tell_their_split() {
        let folder = folder(&[
            "train-00000-of-00002.jsonl",
            "train-00001-of-00002.jsonl",
            "my_dev.jsonl",
            "README.md",
        ]);
        let train = "train-00001-of-00002.jsonl";
        assert_eq!(
            texts(&folder, "train[2:]").unwrap(),
            [format!("{train} 0"), format!("{train} 1")]
        );
        assert_eq!(texts(&folder, "validation[:1]").unwrap(), ["my_dev.jsonl 0"]);
        let error = texts(&folder, "test").unwrap_err();
        assert!(
            error.contains("expected a split \"test\"; its files are train, validation"),
            "{error}"
        );
    }

    #[test]
    fn without_names_everything_is_train() {
        let folder = folder(&["a.jsonl", "trainer.jsonl"]);
        assert_eq!(texts(&folder, "train").unwrap().len(), 4);
        let error = texts(&folder, "test[:5]").unwrap_err();
        assert!(error.contains("all of it is \"train\""), "{error}");
        let file = folder.path().join("a.jsonl");
        assert_eq!(load(&file, &"train[1:]".parse().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn a_file_of_no_split_beside_others_is_not_left_out_in_silence() {
        let error = texts(&folder(&["train.jsonl", "extra.jsonl"]), "train").unwrap_err();
        assert!(error.contains("extra.jsonl"), "{error}");
    }
}
