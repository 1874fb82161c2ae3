//! `rootstock compare`: how far models and adapters are from a source on a text, beside their size and speed. What is measured is in
//! [`contest`], what is shown of it in [`report`] and [`page`].

mod contest;
mod page;
mod report;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::CompareArgs;
use crate::settings::CompareSettings;

pub use report::Report;

/// Compares all models with the first and writes the table.
///
/// # Errors
/// The settings, the text, a model or an adapter cannot be used, models of different vocabularies, or one is further away than it
/// may be.
pub fn run(args: CompareArgs) -> Result<()> {
    let settings = CompareSettings::new(&args)?;
    let report = measured(&settings)?;
    if let Some(path) = &args.html {
        write(path, &report.html())?;
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", report.json())?,
        false => write!(out, "{}", report.table())?,
    }
    report.verdict()
}

/// Compares all models with the first.
///
/// # Errors
/// The text, a model or an adapter cannot be used, or models have different vocabularies.
pub fn measured(settings: &CompareSettings) -> Result<Report> {
    let shown = settings.text.display();
    let text = fs::read_to_string(&settings.text).with_context(|| format!("--text: {shown} cannot be read"))?;
    let rows = contest::measure(settings, &text)?;
    Ok(Report::new(settings, rows))
}

/// A page that is either the old one or whole.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, page: &str) -> Result<()> {
    rootstock_train::files::write_whole(path, page.as_bytes())
        .with_context(|| format!("--html: {} cannot be written", path.display()))
}
