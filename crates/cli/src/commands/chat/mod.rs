//! `rootstock chat`: a conversation in the terminal, on a base of its own or on a running server. Answers go to stdout,
//! everything else to stderr; piped input works too, one line per message.

mod backend;
mod input;
mod remote;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::ChatArgs;
use crate::base::Base;
use crate::settings::{BaseSettings, GenerationSettings, SINGLE, folder};

use backend::{Backend, Local};
use input::Input;
use remote::Remote;

const HELP: &str = "\
/adapter NAME   answer with this adapter from here on
/adapter        answer with the base
/adapters       list the adapters
/system TEXT    set the system message
/reset          forget the conversation
/quit           end (Ctrl-D does too; Ctrl-C cuts an answer short)";

/// Talks until the input ends.
///
/// # Errors
/// The settings or the model cannot be used, the server cannot be reached, or the terminal fails.
pub fn run(args: ChatArgs) -> Result<()> {
    let generation = GenerationSettings::new(args.sampling)?;
    let mut backend: Box<dyn Backend> = match args.url {
        Some(url) => Box::new(Remote::connect(&url, args.api_key, generation)?),
        None => {
            let adapters = args.adapters.map(|path| folder("adapters", &path)).transpose()?;
            let settings = BaseSettings::new(args.model, &args.run, SINGLE)?;
            Box::new(Local::new(Base::start(&settings)?, adapters.as_deref(), generation)?)
        }
    };
    let mut conversation = Conversation {
        system: args.system,
        ..Conversation::default()
    };
    if let Some(name) = args.adapter {
        conversation.switch(&name, &*backend)?;
    }
    let mut input = Input::open();
    if input.is_terminal() {
        eprintln!("{HELP}");
    }
    while let Some(line) = input.line(conversation.adapter.as_deref())? {
        match Line::parse(&line) {
            Line::Nothing => {}
            Line::Quit => break,
            line => {
                if let Err(error) = conversation.take(line, &mut *backend, &mut io::stdout()) {
                    if error.chain().any(|cause| cause.is::<io::Error>()) {
                        return Err(error);
                    }
                    eprintln!("error: {error:#}");
                }
            }
        }
    }
    Ok(())
}

/// What a line of input means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Message(&'a str),
    Adapter(&'a str),
    Adapters,
    System(&'a str),
    Reset,
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Nothing;
        }
        if !line.starts_with('/') {
            return Self::Message(line);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "/adapter" => Self::Adapter(rest.trim()),
            "/adapters" => Self::Adapters,
            "/system" => Self::System(rest.trim()),
            "/reset" => Self::Reset,
            "/help" => Self::Help,
            "/quit" | "/exit" => Self::Quit,
            _ => Self::Unknown(command),
        }
    }
}

/// What has been said, and who answers.
#[derive(Debug, Default)]
struct Conversation {
    messages: Vec<Value>,
    system: Option<String>,
    adapter: Option<String>,
}

impl Conversation {
    fn take(&mut self, line: Line<'_>, backend: &mut dyn Backend, out: &mut dyn Write) -> Result<()> {
        match line {
            Line::Message(text) => return self.answer(text, backend, out),
            Line::Adapter("") => {
                self.adapter = None;
                eprintln!("the base answers");
            }
            Line::Adapter(name) => self.switch(name, backend)?,
            Line::Adapters => {
                for name in backend.adapters()? {
                    writeln!(out, "{name}")?;
                }
            }
            Line::System(text) => self.system = Some(text.to_owned()).filter(|text| !text.is_empty()),
            Line::Reset => self.messages.clear(),
            Line::Help => eprintln!("{HELP}"),
            Line::Unknown(command) => eprintln!("there is no {command}; /help lists what there is"),
            Line::Nothing | Line::Quit => {}
        }
        Ok(())
    }

    /// The messages so far stay: the next answer reads them with the new adapter.
    fn switch(&mut self, name: &str, backend: &dyn Backend) -> Result<()> {
        let names = backend.adapters()?;
        if !names.iter().any(|known| known == name) {
            anyhow::bail!("there is no adapter {name:?}; there are: {}", names.join(", "));
        }
        eprintln!("{name} answers");
        self.adapter = Some(name.to_owned());
        Ok(())
    }

    /// Streams the answer to `out`. A message that got none is forgotten, so that it can be sent again.
    fn answer(&mut self, text: &str, backend: &mut dyn Backend, out: &mut dyn Write) -> Result<()> {
        self.messages.push(json!({"role": "user", "content": text}));
        let system = self
            .system
            .iter()
            .map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<_> = system.chain(self.messages.iter().cloned()).collect();
        let mut show = |text: &str| -> Result<()> {
            out.write_all(text.as_bytes())?;
            Ok(out.flush()?)
        };
        match backend.answer(&messages, self.adapter.as_deref(), &mut show) {
            Ok(answer) => {
                show("\n")?;
                self.messages.push(json!({"role": "assistant", "content": answer}));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }
}
