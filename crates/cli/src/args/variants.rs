//! Settings files of several runs: `[[task]]` tables of `finetune`, `[search]` and `[search_space]` of `search`. Each run's arguments
//! are parsed from the command line and the file as those of a single run are, with keys of its own in place of the file's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::{ArgMatches, FromArgMatches};
use rootstock_train::search::{Dimension, Parameters};
use toml::{Table, Value};

use super::file::{self, FileSettings};
use super::{Command, FinetuneArgs, command};

/// Tables of a settings file that are not options, by command.
pub fn sections(subcommand: &str) -> &'static [&'static str] {
    match subcommand {
        "finetune" => &["task"],
        "search" => &["search", "search_space"],
        _ => &[],
    }
}

/// One of several runs of a settings file.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it is called.
    pub name: String,
    /// Its own arguments.
    pub args: FinetuneArgs,
}

/// The tasks of a file. Without an output of its own, a task's is the folder of its name in the file's.
pub fn tasks(file: &FileSettings) -> Result<Vec<Task>, clap::Error> {
    let tables = match file.sections.get("task") {
        None => return Ok(Vec::new()),
        Some(value) => value.clone().try_into::<Vec<Table>>(),
    };
    let tables = tables.map_err(|error| file.refuse(format!("task: expected tables [[task]]: {error}")))?;
    let tasks: Vec<Task> = tables
        .into_iter()
        .map(|table| task(file, table))
        .collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    match tasks.iter().find(|task| !names.insert(task.name.clone())) {
        Some(task) => Err(file.refuse(format!("two tasks are called {}", task.name))),
        None => Ok(tasks),
    }
}

fn task(file: &FileSettings, mut table: Table) -> Result<Task, clap::Error> {
    let name = match table.remove("name") {
        Some(Value::String(name)) if is_folder_name(&name) => name,
        Some(other) => return Err(file.refuse(format!("task: expected a name that a folder can have, got {other}"))),
        None => return Err(file.refuse("task: every task needs a name")),
    };
    let refuse = |reason: String| file.refuse(format!("task {name}: {reason}"));
    let mut keys = match table.remove("config") {
        None => Table::new(),
        Some(Value::String(path)) => file::read(Path::new(&path))
            .and_then(|table| file.options_of(table))
            .map_err(|reason| refuse(format!("{path}: {reason}")))?,
        Some(other) => return Err(refuse(format!("`config`: expected a file, got {other}"))),
    };
    // Where recipes are put together, what they call their output is of no use.
    keys.remove("output");
    keys.extend(file.options_of(table).map_err(refuse)?);
    let matches = file.parse_with(&keys)?;
    let Command::Finetune(mut args) = parsed(&matches)? else {
        return Err(refuse("tasks are for finetune".to_owned()));
    };
    if !keys.contains_key("output") || file.is_typed("output") {
        args.output = args.output.map(|folder| folder.join(&name));
    }
    if !keys.contains_key("logging-dir") || file.is_typed("logging-dir") {
        args.records.logging_dir = args.records.logging_dir.map(|folder| folder.join(&name));
    }
    Ok(Task { name, args: *args })
}

fn is_folder_name(name: &str) -> bool {
    !(name.trim().is_empty() || name.starts_with('.') || name.contains(['/', '\\']))
}

/// What a search goes over, and how a point of it becomes a run.
#[derive(Debug, Clone)]
pub struct Space {
    file: FileSettings,
    /// By the long names of options.
    pub dimensions: BTreeMap<String, Dimension>,
    /// All other options that decide what a trial comes to, by their long names, as they were given.
    pub fixed: BTreeMap<String, String>,
}

/// The keys of a file's `[search]` by the long names of options: `seed` is that of the search.
pub fn search_keys(file: &FileSettings) -> Result<Table, clap::Error> {
    let table = match file.sections.get("search") {
        None => return Ok(Table::new()),
        Some(Value::Table(table)) => table.clone(),
        Some(other) => return Err(file.refuse(format!("search: expected a table, got {other}"))),
    };
    let own = own_options();
    let known = |key: &str| {
        let spellings = [format!("search-{key}"), key.to_owned()];
        spellings.into_iter().find(|spelling| own.contains(spelling))
    };
    let named = table
        .into_iter()
        .map(|(key, value)| match known(&key.replace('_', "-")) {
            Some(option) => Ok((option, value)),
            None => Err(file.refuse(format!("search: unknown key `{key}`; it knows {}", own.join(", ")))),
        });
    named.collect()
}

/// The space of a file, and what is fixed beside it.
pub fn space(file: &FileSettings, matches: &ArgMatches) -> Result<Space, clap::Error> {
    let table = match file.sections.get("search_space") {
        Some(Value::Table(table)) => table.clone(),
        _ => Table::new(),
    };
    let (own, mut dimensions) = (own_options(), BTreeMap::new());
    for (key, value) in table {
        let refuse = |reason: String| file.refuse(format!("search_space.{key}: {reason}"));
        let option = file.option(&key).map_err(refuse)?;
        if UNSEARCHED.contains(&option.as_str()) || own.contains(&option) {
            return Err(refuse("it does not decide what a run comes to".to_owned()));
        }
        if file.is_typed(&option) {
            return Err(refuse(format!("--{option} is set as a flag or a variable as well")));
        }
        let dimension: Dimension = value
            .try_into()
            .map_err(|error: toml::de::Error| refuse(error.to_string()))?;
        if dimensions.insert(option, dimension).is_some() {
            return Err(refuse("it is there twice".to_owned()));
        }
    }
    let fixed = fixed(matches, &dimensions);
    Ok(Space {
        file: file.clone(),
        dimensions,
        fixed,
    })
}

impl Space {
    /// The arguments of the run at a point.
    ///
    /// # Errors
    /// Values that an option does not take.
    pub fn at(&self, point: &Parameters) -> Result<FinetuneArgs, clap::Error> {
        let keys = point.iter().map(|(name, value)| match Value::try_from(value) {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err(self.file.refuse(format!("search_space.{name}: {error}"))),
        });
        let matches = self.file.parse_with(&keys.collect::<Result<_, _>>()?)?;
        match parsed(&matches)? {
            Command::Search(args) => Ok(args.finetune),
            _ => Err(self.file.refuse("search spaces are for search")),
        }
    }
}

fn parsed(matches: &ArgMatches) -> Result<Command, clap::Error> {
    super::Cli::from_arg_matches(matches).map(|cli| cli.command)
}

/// Options that change where and how fast a run is done and what is written of it, but not its result.
const UNSEARCHED: [&str; 22] = [
    "output",
    "overwrite",
    "models-dir",
    "catalog",
    "threads",
    "memory-limit",
    "trust-remote-code",
    "task-name",
    "log-level",
    "dry-run",
    "json",
    "logging-steps",
    "save-steps",
    "save-total-limit",
    "logging-dir",
    "report-to",
    "report-samples",
    "per-device-eval-batch-size",
    "resume-from-checkpoint",
    "gradient-checkpointing",
    "config",
    "help",
];

fn search_options() -> Vec<clap::Arg> {
    let command = command();
    let search = command.find_subcommand("search");
    let all = search.into_iter().flat_map(clap::Command::get_arguments);
    all.cloned().collect()
}

/// Long names of what `search` takes beside the options of `finetune`.
fn own_options() -> Vec<String> {
    let options = search_options().into_iter();
    let own = options.filter(|arg| arg.get_help_heading() == Some("Search"));
    own.filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// What decides results and is the same for all trials.
fn fixed(matches: &ArgMatches, dimensions: &BTreeMap<String, Dimension>) -> BTreeMap<String, String> {
    let Some((_, matches)) = matches.subcommand() else {
        return BTreeMap::new();
    };
    let (own, mut fixed) = (own_options(), BTreeMap::new());
    for arg in search_options() {
        let Some(long) = arg.get_long() else { continue };
        if UNSEARCHED.contains(&long) || own.iter().any(|own| own == long) || dimensions.contains_key(long) {
            continue;
        }
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        if !values.is_empty() {
            fixed.insert(long.to_owned(), values.join(","));
        }
    }
    fixed
}
