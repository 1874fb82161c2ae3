//! `rootstock eval`: how good models and adapters are at a file of examples, side by side. What is asked of a model is
//! in [`questions`], how it is asked in [`asking`], what follows from the answers in [`report`].

mod asking;
mod candidates;
mod examples;
mod questions;
mod report;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::args::EvalArgs;
use crate::settings::{BaseSettings, EvalSettings, Measure};

use candidates::Team;
use examples::Examples;
use questions::Exam;
use report::{Report, Row};

/// Evaluates every model and adapter and writes the table.
///
/// # Errors
/// The settings, the rows, a model or an adapter cannot be used, or a metric is out of its bound.
pub fn run(args: EvalArgs) -> Result<()> {
    let settings = EvalSettings::new(&args)?;
    let examples = Examples::read(&settings)?;
    let mut rows = Vec::new();
    for model in &settings.models {
        rows.extend(evaluate(model, &settings, &examples)?);
    }
    for row in rows.iter().filter(|row| row.truncated > 0) {
        let (name, all) = (row.name(), examples.list.len());
        eprintln!(
            "{name}: {} of {all} examples were cut to the longest length",
            row.truncated
        );
    }
    let report = Report::new(&settings, &examples, rows);
    if let Some(path) = &args.out {
        write(path, &report.json())?;
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", report.json())?,
        false => write!(out, "{}", report.table())?,
    }
    report.verdict()
}

/// A number of the one adapter that the settings have, on the one model.
///
/// # Errors
/// Rows, model or adapter that cannot be used, or rows that the measure cannot be taken of.
pub fn value(settings: &EvalSettings, measure: Measure) -> Result<f64> {
    let examples = Examples::read(settings)?;
    let mut rows = Vec::new();
    for model in &settings.models {
        rows.extend(evaluate(model, settings, &examples)?);
    }
    let value = rows.first().and_then(|row| row.value(measure));
    value.with_context(|| format!("{} was not measured", measure.name()))
}

/// A model and the adapters on it; it is gone from memory afterwards.
fn evaluate(model: &BaseSettings, settings: &EvalSettings, examples: &Examples) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let team = Team::start(model, settings).await?;
        let answers = asking::ask(Exam {
            examples,
            team: &team,
            max_tokens: settings.max_tokens,
        })
        .await?;
        let rows = team.rows(examples, &answers);
        team.base.engine.drain();
        Ok(rows)
    })
}

/// A file that is either the old one or whole.
fn write(path: &Path, report: &Value) -> Result<()> {
    let write = || -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        writeln!(file, "{report:#}")?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("--out: {} cannot be written", path.display()))
}
