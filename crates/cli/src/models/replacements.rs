//! Which models a request may put in the place of the base: pulled ones, and what lies below certain folders.

use std::path::{Path, PathBuf};

use super::{Models, is_model_folder};

/// Bases that may be loaded over HTTP.
#[derive(Debug, Clone)]
pub struct Replacements {
    models: Models,
    /// Canonical.
    roots: Vec<PathBuf>,
}

impl Replacements {
    /// Pulled models, what lies beside the model served first, and below further folders.
    pub fn new(models: Models, first: &Path, further: Vec<PathBuf>) -> Self {
        let beside = first.canonicalize().ok().filter(|first| first.is_dir());
        let beside = match beside {
            Some(folder) => folder.parent().map(Path::to_owned),
            // A file may be a link to elsewhere; what counts is where it was named.
            None => first.parent().map(|folder| match folder.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => folder.to_owned(),
            }),
        };
        let pulled = models.dir.clone();
        let roots = beside
            .into_iter()
            .chain(pulled)
            .filter_map(|root| root.canonicalize().ok());
        Self {
            roots: roots.chain(further).collect(),
            models,
        }
    }

    /// The model of that path or catalog name; a relative path starts at each root in turn. `None` if there is none:
    /// what does not exist and what lies elsewhere look alike.
    pub fn find(&self, model: &str) -> Option<PathBuf> {
        let below = self.roots.iter().find_map(|root| below(root, Path::new(model)));
        below.or_else(|| Some(self.models.pulled(model).ok()?.path))
    }
}

/// The model at `path`, if its folder lies below `root`, links followed. The file itself may be a link, as in the hub's
/// cache: who can put links there decides what they lead to.
fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let path = root.join(path);
    if path.is_dir() {
        let folder = path.canonicalize().ok()?;
        return (folder.starts_with(root) && is_model_folder(&folder)).then_some(folder);
    }
    let folder = path.parent()?.canonicalize().ok()?;
    let file = folder.join(path.file_name()?);
    (folder.starts_with(root) && file.is_file()).then_some(file)
}
