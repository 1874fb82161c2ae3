//! The settings file of `--config`: TOML whose keys are the command's flags without the dashes. Its values are parsed as if they had
//! been typed, so that flags, environment and file share one definition and one set of checks. Keys may also be given in place of
//! the file's own, as the tables of [`super::variants`] do.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use toml::{Table, Value};

use super::variants;

/// A command line and the settings file that it names.
#[derive(Debug, Clone)]
pub struct FileSettings {
    path: PathBuf,
    subcommand: String,
    line: Vec<OsString>,
    /// Options that a flag or the environment has set, by their long names.
    typed: BTreeSet<String>,
    /// Values by the long names of options.
    keys: Table,
    /// What is left of the file: tables that are no options.
    pub(super) sections: Table,
}

impl FileSettings {
    /// Reads the file that a parsed command line names, if any. `sections` are names of tables that are not options.
    pub fn of(line: &[OsString], matches: &ArgMatches, sections: &[&str]) -> Result<Option<Self>, clap::Error> {
        let Some((subcommand, matches)) = matches.subcommand() else {
            return Ok(None);
        };
        let Ok(Some(path)) = matches.try_get_one::<PathBuf>("config") else {
            return Ok(None);
        };
        let mut file = Self {
            path: path.clone(),
            subcommand: subcommand.to_owned(),
            line: line.to_vec(),
            typed: typed(subcommand, matches),
            keys: Table::new(),
            sections: Table::new(),
        };
        let mut table = read(path).map_err(|reason| file.refuse(reason))?;
        for &section in sections {
            file.sections.extend(table.remove_entry(section));
        }
        file.keys = file.options_of(table).map_err(|reason| file.refuse(reason))?;
        let searched = variants::search_keys(&file)?;
        file.keys.extend(searched);
        Ok(Some(file))
    }

    /// An error that names the file.
    pub fn refuse(&self, reason: impl AsRef<str>) -> clap::Error {
        let reason = format!("{}: {}", self.path.display(), reason.as_ref());
        super::command().error(ErrorKind::InvalidValue, reason)
    }

    /// Whether a flag or the environment has set an option: neither the file nor what takes its place does then.
    pub fn is_typed(&self, option: &str) -> bool {
        self.typed.contains(option)
    }

    /// Parses the command line with the file's arguments behind it, some of them replaced.
    pub fn parse_with(&self, instead: &Table) -> Result<ArgMatches, clap::Error> {
        let mut keys = self.keys.clone();
        keys.extend(instead.clone());
        let mut line = self.line.clone();
        for (key, value) in keys.iter().filter(|(key, _)| !self.is_typed(key)) {
            let arg = argument(&self.subcommand, key).ok_or_else(|| self.refuse(unknown(&self.subcommand, key)))?;
            line.extend(as_arguments(&arg, key, value).map_err(|reason| self.refuse(reason))?);
        }
        super::command().try_get_matches_from(line).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.trim_start_matches("error: ").trim_end();
            super::command().error(error.kind(), format!("{}: {reason}", self.path.display()))
        })
    }

    /// The keys of a table by the long names of the options that they stand for.
    pub fn options_of(&self, table: Table) -> Result<Table, String> {
        let mut options = Table::new();
        for (key, value) in table {
            let option = self.option(&key)?;
            if options.insert(option.clone(), value).is_some() {
                return Err(format!("`{key}`: {option} is set twice"));
            }
        }
        Ok(options)
    }

    /// The long name of the option that a key stands for.
    pub fn option(&self, key: &str) -> Result<String, String> {
        let arg = argument(&self.subcommand, key);
        let long = arg.as_ref().and_then(clap::Arg::get_long).map(str::to_owned);
        long.ok_or_else(|| unknown(&self.subcommand, key))
    }
}

/// A file of TOML.
pub fn read(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}

fn typed(subcommand: &str, matches: &ArgMatches) -> BTreeSet<String> {
    let is_typed = |arg: &clap::Arg| {
        let source = matches.value_source(arg.get_id().as_str());
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let typed = options(subcommand).into_iter().filter(is_typed);
    typed.filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// The option a key stands for: dashes may be written as underscores, as on the command line, and other tools' names are known.
fn argument(subcommand: &str, key: &str) -> Option<clap::Arg> {
    let key = key.replace('_', "-");
    let is_named = |arg: &clap::Arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long() == Some(&key) || aliases.contains(&key.as_str())
    };
    options(subcommand).into_iter().find(is_named)
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
