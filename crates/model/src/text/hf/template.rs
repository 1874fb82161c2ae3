//! Where a folder keeps its chat templates.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::refuse;
use super::settings::{CONFIG, Settings, json, text};
use crate::ModelError;

/// A template as a file of its own.
const OWN_FILE: &str = "chat_template.jinja";
/// A template for conversations with tools beside it.
const OWN_TOOL_USE: &str = "additional_chat_templates/tool_use.jinja";
/// A template in a file of JSON.
const JSON_FILE: &str = "chat_template.json";
/// Names of the templates that are used where there are several.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The templates that are used.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) default: String,
    /// Stands in for the default where a conversation has tools.
    pub(super) tool_use: Option<String>,
}

#[derive(Deserialize)]
struct JsonFile {
    chat_template: Value,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// The templates of a folder: of the three places the first that has any.
pub(super) fn find(dir: &Path, settings: &Settings) -> Result<Option<Sources>, ModelError> {
    if let Some(default) = text(&dir.join(OWN_FILE))? {
        let tool_use = text(&dir.join(OWN_TOOL_USE))?;
        return Ok(Some(Sources { default, tool_use }));
    }
    let path = dir.join(JSON_FILE);
    if let Some(file) = json::<JsonFile>(&path)? {
        return sources(&file.chat_template, &path).map(Some);
    }
    let template = settings.config.chat_template.as_ref();
    template
        .map(|template| sources(template, &dir.join(CONFIG)))
        .transpose()
}

/// One template, or several with names.
fn sources(template: &Value, path: &Path) -> Result<Sources, ModelError> {
    let named: Vec<Named> = match template {
        Value::String(default) => {
            return Ok(Sources {
                default: default.clone(),
                tool_use: None,
            });
        }
        Value::Object(named) => named
            .iter()
            .filter_map(|(name, template)| Named::of(name, template))
            .collect(),
        Value::Array(_) => {
            Vec::deserialize(template).map_err(|error| refuse(path, format!("chat_template: {error}")))?
        }
        _ => return Err(refuse(path, "chat_template: neither a template nor a list of them")),
    };
    let find = |name: &str| {
        named
            .iter()
            .find(|template| template.name == name)
            .map(|found| found.template.clone())
    };
    let default = find(DEFAULT).ok_or_else(|| {
        let names: Vec<&str> = named.iter().map(|template| template.name.as_str()).collect();
        refuse(
            path,
            format!("chat_template: no template is named {DEFAULT:?} among {names:?}"),
        )
    })?;
    Ok(Sources {
        default,
        tool_use: find(TOOL_USE),
    })
}

impl Named {
    fn of(name: &str, template: &Value) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            template: template.as_str()?.to_owned(),
        })
    }
}
