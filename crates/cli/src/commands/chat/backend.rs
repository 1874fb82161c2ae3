//! Who answers: the boundary between the conversation and a model, and the base that runs in this process.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::Result;
use rootstock_engine::adapters::Watcher;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::base::{Base, Call};
use crate::settings::GenerationSettings;

/// Takes text as it becomes final.
pub type OnText<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

/// Answers messages.
pub trait Backend {
    /// Names of the adapters it has at the moment.
    fn adapters(&self) -> Result<Vec<String>>;

    /// Answers a conversation in OpenAI's shape on an adapter or the base; returns the whole answer.
    fn answer(&mut self, messages: &[Value], adapter: Option<&str>, on_text: OnText<'_>) -> Result<String>;
}

/// A base in this process.
pub struct Local {
    base: Base,
    generation: GenerationSettings,
    runtime: Runtime,
    /// Whether Ctrl-C ends the answer rather than the program.
    interruptible: bool,
    _watcher: Option<Watcher>,
}

impl Local {
    /// Answers on `base` and the adapters of a folder.
    ///
    /// # Errors
    /// The folder cannot be watched.
    pub fn new(base: Base, adapters: Option<&Path>, generation: GenerationSettings) -> Result<Self> {
        Ok(Self {
            _watcher: adapters.map(|dir| base.watch(dir)).transpose()?,
            base,
            generation,
            interruptible: io::stdin().is_terminal(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        })
    }
}

impl Backend for Local {
    fn adapters(&self) -> Result<Vec<String>> {
        let infos = self.base.adapters.list();
        Ok(infos.iter().map(|adapter| adapter.name.to_string()).collect())
    }

    fn answer(&mut self, messages: &[Value], adapter: Option<&str>, on_text: OnText<'_>) -> Result<String> {
        let mut answer = String::new();
        let generation = async {
            let held = self.base.hold(adapter.map(|name| (name, 1.0))).await?;
            let call = Call {
                prompt: self.base.chat_prompt(messages, &held.defaults)?,
                continues: false,
                held,
                settings: &self.generation,
            };
            let on_text = |text: &str| {
                answer.push_str(text);
                on_text(text)
            };
            self.base.start_generation(call)?.finish(on_text).await
        };
        self.runtime.block_on(async {
            tokio::select! {
                outcome = generation => outcome.map(drop),
                () = interrupt(self.interruptible) => Ok(()),
            }
        })?;
        Ok(answer)
    }
}

/// Resolves when the user has had enough of the answer.
async fn interrupt(possible: bool) {
    if !possible || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
