//! Chat templates of a base: its own, and those that adapters bring, each compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rootstock_model::adapter::AdapterDefaults;
use rootstock_model::text::{ChatTemplate, Markers};

use crate::error::{ApiError, ApiResult};

/// Compiled templates of adapters that are kept; most adapters that bring one bring the same.
const KEPT: usize = 64;

/// The base's template, and by their source those of adapters.
pub(crate) struct Templates {
    own: Option<Arc<ChatTemplate>>,
    markers: Markers,
    compiled: Mutex<HashMap<String, Arc<ChatTemplate>>>,
}

impl Templates {
    pub(super) fn new(own: Option<ChatTemplate>, markers: Markers) -> Self {
        Self {
            own: own.map(Arc::new),
            markers,
            compiled: Mutex::default(),
        }
    }

    /// The template for a request with these defaults of its adapter.
    pub(crate) fn choose(&self, defaults: &AdapterDefaults) -> ApiResult<Arc<ChatTemplate>> {
        let Some(source) = &defaults.chat_template else {
            return self.own.clone().ok_or(ApiError::NoChatTemplate);
        };
        if let Some(template) = self.compiled.lock().get(source) {
            return Ok(template.clone());
        }
        // Outside of the lock: two requests may compile the same one, and neither holds up others.
        let template = ChatTemplate::new(source, self.markers.clone());
        let template = Arc::new(template.map_err(|error| ApiError::ChatTemplate(error.to_string()))?);
        let mut compiled = self.compiled.lock();
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        Ok(compiled.entry(source.clone()).or_insert(template).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_template(source: &str) -> AdapterDefaults {
        AdapterDefaults {
            chat_template: Some(source.to_owned()),
            ..AdapterDefaults::default()
        }
    }

    #[test]
    fn an_adapters_template_is_compiled_once_and_with_the_markers_of_the_base() {
        let markers = Markers {
            bos: "<s>".to_owned(),
            ..Markers::default()
        };
        let templates = Templates::new(None, markers);
        let defaults = with_template("{{ bos_token }}{{ messages | length }}");
        let template = templates.choose(&defaults).unwrap();
        assert!(Arc::ptr_eq(&template, &templates.choose(&defaults.clone()).unwrap()));
        assert_eq!(template.render(&[], false, &serde_json::Map::new()).unwrap(), "<s>0");
        let none = templates.choose(&AdapterDefaults::default());
        assert!(matches!(none.err(), Some(ApiError::NoChatTemplate)));
    }

    #[test]
    fn the_number_of_compiled_templates_is_bounded() {
        let templates = Templates::new(None, Markers::default());
        for index in 0..3 * KEPT {
            templates.choose(&with_template(&index.to_string())).unwrap();
        }
        assert!(templates.compiled.lock().len() <= KEPT);
    }
}
