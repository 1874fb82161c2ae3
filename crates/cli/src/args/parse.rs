//! From a command line to a command, over the environment and the file of `--config`.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, FromArgMatches};
use toml::Table;

use super::file::FileSettings;
use super::{Cli, Command, variants};

/// Parses a command line, with the environment and the file of `--config` under it.
///
/// # Errors
/// clap's own, `--help` and `--version` included; what is wrong with a settings file comes as one of them too.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let line: Vec<OsString> = line.into_iter().map(with_dashes).collect();
    let matches = command().try_get_matches_from(&line)?;
    let sections = matches.subcommand_name().map_or(&[][..], variants::sections);
    let Some(file) = FileSettings::of(&line, &matches, sections)? else {
        return Ok(Cli::from_arg_matches(&matches)?.command);
    };
    let matches = file.parse_with(&Table::new())?;
    let mut command = Cli::from_arg_matches(&matches)?.command;
    match &mut command {
        Command::Finetune(args) => args.tasks = variants::tasks(&file)?,
        Command::Search(args) => args.space = Some(variants::space(&file, &matches)?),
        _ => {}
    }
    Ok(command)
}

/// An option as it is spelled here: what other tools call `--data_name` is `--data-name`.
fn with_dashes(argument: OsString) -> OsString {
    let Some(option) = argument.to_str().filter(|argument| argument.starts_with("--")) else {
        return argument;
    };
    match option.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        None => option.replace('_', "-").into(),
    }
}

/// The clap command, with an environment variable for each option that describes a set-up rather than one call.
pub(super) fn command() -> clap::Command {
    Cli::command().mut_subcommands(with_variables)
}

fn with_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_subcommands(with_variables);
    command.mut_args(|arg| match arg.get_long() {
        // Of one call; and terms are accepted by who types it, not by a variable that somebody has set.
        Some(
            "help" | "version" | "list" | "json" | "tensors" | "out" | "html" | "prompt" | "stop" | "accept-licence",
        )
        | None => arg,
        Some("rows" | "ids" | "lines" | "color") => arg,
        Some(long) => {
            let variable = format!("ROOTSTOCK_{}", long.to_uppercase().replace('-', "_"));
            let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
            let arg = arg.env(variable);
            if is_switch {
                arg.value_parser(BoolishValueParser::new())
            } else {
                arg
            }
        }
    })
}
