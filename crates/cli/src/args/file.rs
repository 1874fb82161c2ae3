//! The settings file of `--config`: flat TOML whose keys are the command's flags without the dashes. Its values are
//! parsed as if they had been typed, so that flags, environment and file share one definition and one set of checks.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use toml::{Table, Value};

/// Keys of a file that neither a flag nor the environment has set, as arguments.
pub struct FileSettings {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Reads the file that the parsed command line names, if any.
pub fn settings_of(matches: &ArgMatches) -> Result<Option<FileSettings>, clap::Error> {
    let Some((name, matches)) = matches.subcommand() else {
        return Ok(None);
    };
    let Ok(Some(path)) = matches.try_get_one::<PathBuf>("config") else {
        return Ok(None);
    };
    let refuse =
        |reason: String| super::command().error(ErrorKind::InvalidValue, format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| refuse(error.to_string()))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let arg = argument(name, key).ok_or_else(|| refuse(unknown(name, key)))?;
        let typed = matches!(
            matches.value_source(arg.get_id().as_str()),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if !typed {
            arguments.extend(as_arguments(&arg, key, value).map_err(refuse)?);
        }
    }
    Ok(Some(FileSettings {
        path: path.clone(),
        arguments,
    }))
}

impl FileSettings {
    /// Parses the command line again with the file's arguments behind it.
    pub fn parse_under(self, mut line: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
        line.extend(self.arguments);
        super::command().try_get_matches_from(line).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.trim_start_matches("error: ").trim_end();
            super::command().error(error.kind(), format!("{}: {reason}", self.path.display()))
        })
    }
}

/// The option a key stands for.
fn argument(subcommand: &str, key: &str) -> Option<clap::Arg> {
    options(subcommand).into_iter().find(|arg| arg.get_long() == Some(key))
}

/// What a file may set: everything but the file itself.
fn options(subcommand: &str) -> Vec<clap::Arg> {
    let command = super::command();
    let arguments = command.find_subcommand(subcommand).map(clap::Command::get_arguments);
    arguments
        .into_iter()
        .flatten()
        .filter(|arg| !matches!(arg.get_long(), None | Some("config" | "help" | "version")))
        .cloned()
        .collect()
}

fn unknown(subcommand: &str, key: &str) -> String {
    let known: Vec<_> = options(subcommand)
        .iter()
        .filter_map(|arg| Some(arg.get_long()?.to_owned()))
        .collect();
    format!("unknown key `{key}`; `{subcommand}` knows {}", known.join(", "))
}

fn as_arguments(arg: &clap::Arg, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, other) => Err(format!("`{key}`: expected true or false, got {other}")),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(|value| as_argument(key, value)).collect(),
        (_, Value::Boolean(value)) if takes_booleans(arg) => Ok(vec![format!("--{key}={value}").into()]),
        (_, value) => Ok(vec![as_argument(key, value)?]),
    }
}

/// Whether an option is a switch that can be said to be off, as in `--packing false`.
fn takes_booleans(arg: &clap::Arg) -> bool {
    arg.get_possible_values()
        .iter()
        .any(|value| value.matches("false", true))
}

fn as_argument(key: &str, value: &Value) -> Result<OsString, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        other => return Err(format!("`{key}`: expected a text or a number, got {other}")),
    };
    Ok(format!("--{key}={text}").into())
}
