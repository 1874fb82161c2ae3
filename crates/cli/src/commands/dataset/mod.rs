//! `rootstock data`: what a run would be trained on, before it is. What is found is the library's; here it is printed.

mod check;
mod preview;

use std::sync::Arc;

use anyhow::{Context, Result};
use rootstock_model::Checkpoint;
use rootstock_train::TrainError;
use rootstock_train::dataset::{Encoder, Row, Shape, TextTemplate, Truncation};

use crate::UsageError;
use crate::args::{DataCommand, RowsArgs, Truncate};
use crate::models::Models;

/// Most tokens of a row unless it is said otherwise and the model has as many.
const MAX_LENGTH: usize = 1024;

/// Runs one of the commands.
///
/// # Errors
/// The settings, the model or the data cannot be used, or `check` finds what is wrong with the data.
pub fn run(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Preview(args) => preview::run(args),
        DataCommand::Check(args) => check::run(args),
    }
}

/// The encoder of the model that the arguments name.
fn encoder(args: &RowsArgs) -> Result<Arc<Encoder>> {
    let located = Models::new(&args.model)?.locate(args.model.model.as_deref())?;
    let model = Checkpoint::open(&located.path)?;
    let context = model.spec().context_length;
    let max_length = args.max_length.unwrap_or_else(|| MAX_LENGTH.min(context));
    if max_length > context {
        let reason =
            format!("--max-length: expected at most the model's context of {context} tokens, got {max_length}");
        return Err(UsageError(reason).into());
    }
    let truncation = match args.truncate {
        Truncate::PromptStart => Truncation::PromptStart,
        Truncate::End => Truncation::End,
    };
    let encoder = Encoder::for_model(&model, max_length, truncation);
    encoder.map(Arc::new).map_err(|error| usage("--max-length", error))
}

/// How rows are read: by the template, or as the columns of the first one that is read tell.
fn shape(args: &RowsArgs, rows: &[Result<Row, TrainError>]) -> Result<Shape> {
    if let Some(template) = &args.text_template {
        let template = TextTemplate::typed(template);
        return Ok(Shape::Template(
            template.map_err(|error| usage("--text-template", error))?,
        ));
    }
    match rows.iter().find_map(|row| row.as_ref().ok()) {
        Some(first) => Ok(Shape::of(first)?),
        None => {
            let fault = rows.iter().find_map(|row| row.as_ref().err()).map(ToString::to_string);
            Err(anyhow::anyhow!(fault.unwrap_or_default())).context("no row of the data can be read")
        }
    }
}

fn usage(option: &str, error: TrainError) -> anyhow::Error {
    UsageError(format!("{option}: {error}")).into()
}
