//! `rootstock inspect`: what a model or an adapter is and holds, and why it would be refused, by the code that opens it to be served.

mod adapter;
mod found;
mod inspection;
mod licence;
mod model;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use anyhow::Result;

use crate::args::InspectArgs;

use found::Found;

/// Prints what there is to say; fails where serving would.
///
/// # Errors
/// There is no such thing, it is neither a model nor an adapter, or it would be refused.
pub fn run(args: InspectArgs) -> Result<()> {
    let inspection = match Found::at(&args)? {
        Found::Model(path) => model::inspect(&path),
        Found::Adapter(path) => adapter::inspect(&path, &args.base)?,
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", inspection.json(args.tensors))?,
        false => write!(out, "{}", inspection.text(args.tensors))?,
    }
    inspection.verdict()
}
