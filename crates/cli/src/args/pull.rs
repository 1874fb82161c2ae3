//! What can be typed after `pull`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `pull`.
#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// Name in the catalog
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub name: Option<String>,
    /// Show the catalog
    #[arg(long, conflicts_with = "name")]
    pub list: bool,
    /// Accept the terms of a model that has terms of its own, as `pull` shows them without this
    #[arg(long, visible_alias = "accept-license")]
    pub accept_licence: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Folder of pulled models [default: rootstock/models in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Catalog to use in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
}
