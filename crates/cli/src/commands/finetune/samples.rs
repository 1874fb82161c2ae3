//! Answers before and after: what the base and what was made of it say to rows that were held out, as `generate` gives them.

use anyhow::{Context, Result};
use rootstock_model::text::TokenId;
use rootstock_train::dataset::{Example, Message};
use rootstock_train::report::Sample;
use serde_json::{Value, json};

use crate::args::{Method, SamplingArgs};
use crate::base::{Base, Call, Held};
use crate::models::OUTPUT_MODEL;
use crate::settings::{FinetuneSettings, GenerationSettings, SINGLE, served_base};

/// Most tokens of an answer.
const ANSWER_TOKENS: usize = 64;
/// Words of a text that are given, for the model to go on from.
const GIVEN_WORDS: usize = 16;
/// What the adapter is loaded as.
const ADAPTER: &str = "adapter";

/// Asks base and adapter (or model) about each example. Where that fails, they are written all the same: the reason is a warning.
pub fn answers(settings: &FinetuneSettings, examples: &[Example], warnings: &mut Vec<String>) -> Vec<Sample> {
    let prompts: Vec<Prompt> = examples.iter().filter_map(Prompt::of).collect();
    if prompts.is_empty() {
        return Vec::new();
    }
    ask(settings, &prompts).unwrap_or_else(|error| {
        let warning = format!("there are no samples in the report: {error:#}");
        eprintln!("warning: {warning}");
        warnings.push(warning);
        Vec::new()
    })
}

/// What is asked.
enum Prompt {
    /// To be continued.
    Text(String),
    /// To be answered.
    Messages(Vec<Value>, String),
}

impl Prompt {
    /// What an example gives; none where it gives nothing.
    fn of(example: &Example) -> Option<Self> {
        match example {
            Example::Completion { prompt, .. } => Some(prompt.clone())
                .filter(|text| !text.trim().is_empty())
                .map(Self::Text),
            Example::Text(text) => {
                let words: Vec<&str> = text.split_inclusive(char::is_whitespace).take(GIVEN_WORDS).collect();
                let given = words.concat().trim_end().to_owned();
                Some(given).filter(|text| !text.is_empty()).map(Self::Text)
            }
            Example::Conversation(turns) => {
                let last = turns.iter().rposition(|turn| turn.role == "assistant")?;
                let given = &turns[..last];
                let message = |turn: &Message| json!({"role": turn.role, "content": turn.content});
                let shown = given.last()?.content.clone();
                Some(Self::Messages(given.iter().map(message).collect(), shown))
            }
        }
    }

    fn shown(&self) -> &str {
        match self {
            Self::Text(text) | Self::Messages(_, text) => text,
        }
    }

    fn tokens(&self, base: &Base, held: &Held) -> Result<Vec<TokenId>> {
        match self {
            Self::Text(text) => base.text_prompt(text),
            Self::Messages(messages, _) => base.chat_prompt(messages, &held.defaults),
        }
    }
}

fn ask(settings: &FinetuneSettings, prompts: &[Prompt]) -> Result<Vec<Sample>> {
    let base = Base::start(&served_base(
        settings,
        &settings.model.path,
        (1, ANSWER_TOKENS),
        SINGLE,
    )?)?;
    let before = all(settings, &base, prompts, None)?;
    let after = if settings.method == Method::Full {
        base.engine.drain();
        drop(base);
        let model = settings.output.join(OUTPUT_MODEL);
        let tuned = Base::start(&served_base(settings, &model, (1, ANSWER_TOKENS), SINGLE)?)?;
        let after = all(settings, &tuned, prompts, None)?;
        tuned.engine.drain();
        after
    } else {
        let load = base.adapters.load(ADAPTER, &settings.output);
        load.with_context(|| format!("{} is not served", settings.output.display()))?;
        let after = all(settings, &base, prompts, Some((ADAPTER, 1.0)))?;
        base.engine.drain();
        after
    };
    let answers = prompts.iter().zip(before).zip(after);
    let samples = answers.map(|((prompt, base), adapter)| Sample {
        prompt: prompt.shown().to_owned(),
        base,
        adapter,
    });
    Ok(samples.collect())
}

/// The answers to all prompts. As in training, what a long one loses is its beginning.
fn all(
    settings: &FinetuneSettings,
    base: &Base,
    prompts: &[Prompt],
    adapter: Option<(&str, f32)>,
) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let most = settings.max_length.min(base.max_context.saturating_sub(ANSWER_TOKENS));
    let answers = prompts
        .iter()
        .map(|prompt| runtime.block_on(answer(base, prompt, most, adapter)));
    answers.collect()
}

/// The likeliest answer to the last `most` tokens of a prompt.
async fn answer(base: &Base, prompt: &Prompt, most: usize, adapter: Option<(&str, f32)>) -> Result<String> {
    let greedy = GenerationSettings::new(SamplingArgs {
        max_tokens: Some(ANSWER_TOKENS),
        temperature: Some(0.0),
        ..SamplingArgs::default()
    })?;
    let held = base.hold(adapter).await?;
    let mut tokens = prompt.tokens(base, &held)?;
    tokens.drain(..tokens.len().saturating_sub(most));
    let call = Call {
        prompt: tokens,
        continues: matches!(prompt, Prompt::Text(_)),
        held,
        settings: &greedy,
    };
    Ok(base.start_generation(call)?.finish(|_| Ok(())).await?.text)
}
