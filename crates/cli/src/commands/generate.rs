//! `rootstock generate`: one prompt, one answer, no server.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::UsageError;
use crate::args::GenerateArgs;
use crate::base::{Base, Call, Completion};
use crate::models::locate_adapter;
use crate::settings::{BaseSettings, GenerationSettings, SINGLE, adapter_scale};

/// Name under which the adapter of `--adapter` is loaded.
const ADAPTER: &str = "adapter";

/// Generates once and writes text as it comes, or one JSON object at the end.
///
/// # Errors
/// The settings, the model or the adapter cannot be used, or the prompt does not fit.
pub fn run(args: GenerateArgs) -> Result<()> {
    if args.system.is_some() && !args.chat {
        return Err(UsageError("--system: only --chat sends a system message".to_owned()).into());
    }
    let generation = GenerationSettings::new(args.sampling)?;
    let scale = adapter_scale(args.adapter_scale)?;
    let settings = BaseSettings::new(args.model, &args.run, SINGLE)?;
    let prompt = match args.prompt {
        Some(prompt) => prompt,
        None => read_prompt()?,
    };
    let base = Base::start(&settings)?;
    if let Some(adapter) = &args.adapter {
        load(&base, &locate_adapter(adapter, args.adapters.as_deref())?.path)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let adapter = args.adapter.as_ref().map(|_| (ADAPTER, scale));
    let completion = runtime.block_on(async {
        let held = base.hold(adapter).await?;
        let prompt = match args.chat {
            true => base.chat_prompt(&messages(args.system, prompt), &held.defaults)?,
            false => base.text_prompt(&prompt)?,
        };
        let call = Call {
            prompt,
            continues: !args.chat,
            held,
            settings: &generation,
        };
        base.start_generation(call)?.finish(|text| show(text, args.json)).await
    })?;
    finish(&completion, &settings.name, args.json)?;
    base.engine.drain();
    Ok(())
}

fn load(base: &Base, dir: &Path) -> Result<()> {
    let load = base.adapters.load(ADAPTER, dir);
    load.map_err(|error| anyhow::anyhow!("--adapter {}: {error} ({})", dir.display(), error.code.as_str()))?;
    Ok(())
}

fn read_prompt() -> Result<String> {
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        eprintln!("reading the prompt from the terminal; end it with Ctrl-D");
    }
    let mut text = String::new();
    stdin
        .read_to_string(&mut text)
        .context("the prompt on standard input is not readable")?;
    // The newline that echo and here-documents add is not part of what should be continued.
    let prompt = text.strip_suffix('\n').unwrap_or(&text);
    if prompt.is_empty() {
        bail!("the prompt is empty; give it with -p or on standard input");
    }
    Ok(prompt.to_owned())
}

fn messages(system: Option<String>, prompt: String) -> Vec<Value> {
    let system = system.map(|text| json!({"role": "system", "content": text}));
    system
        .into_iter()
        .chain([json!({"role": "user", "content": prompt})])
        .collect()
}

fn show(text: &str, json: bool) -> Result<()> {
    if !json && !text.is_empty() {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

fn finish(completion: &Completion, model: &str, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if !json {
        writeln!(out)?;
        return Ok(());
    }
    let usage = completion.usage;
    let object = json!({
        "model": model,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    });
    writeln!(out, "{object}")?;
    Ok(())
}
