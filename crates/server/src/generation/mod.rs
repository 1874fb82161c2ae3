//! From a checked request to running choices: one engine request for each of `n` choices of each prompt.

mod choice;
mod hold;
mod stream;

use std::sync::Arc;

use axum::response::Response;
use futures_util::future::try_join_all;
use rootstock_engine::sampling::SamplingParams;
use rootstock_engine::{EngineError, PromptScoring, Request, TokenLogprobs};
use rootstock_model::text::{TextStream, TokenId};
use tokio::sync::mpsc::unbounded_channel;

pub(crate) use choice::{Choice, End, Output, Step, Stops};
pub(crate) use hold::{Accepted, Ask, Hold};
pub(crate) use stream::ChunkWriter;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::flight::Flight;
use crate::wire::options::{Options, StreamOptions};
use crate::wire::{PromptTokensDetails, Usage};

/// How answers of one endpoint are written.
pub(crate) trait Style: Send + 'static {
    /// Whether what is generated goes on where the prompt's text ends, as a completion does and a reply does not.
    const CONTINUES_PROMPT: bool;
    /// The answer in one piece.
    fn whole(&self, run: Finished) -> Response;
    /// What writes the chunks of a stream.
    fn chunks(self, run: &Run, options: StreamOptions) -> impl ChunkWriter;
}

/// A request ready for the engine.
pub(crate) struct Order {
    pub(crate) hold: Hold,
    pub(crate) prompts: Vec<Vec<TokenId>>,
    pub(crate) options: Options,
    /// Most tokens per choice where neither the request nor its adapter says.
    pub(crate) default_max_tokens: usize,
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<PromptScoring>,
}

/// The choices of a request, in the order of their index. Dropping it cancels them.
pub(crate) struct Run {
    pub(crate) choices: Vec<Choice>,
    pub(crate) prompts: Arc<[Vec<TokenId>]>,
    /// Choices per prompt.
    pub(crate) n: usize,
    pub(crate) flight: Flight,
}

/// What the choices of an order have in common.
struct Plan {
    sampling: SamplingParams,
    /// For each prompt.
    max_tokens: Vec<usize>,
    stop_tokens: Vec<TokenId>,
    stops: Arc<Stops>,
}

impl Order {
    /// Answers as `style` writes, whole or as a stream.
    pub(crate) async fn answer<S: Style>(self, app: &App, style: S) -> ApiResult<Response> {
        let stream = self.options.stream;
        let run = self.submit::<S>(app)?;
        if let Some(options) = stream {
            let writer = style.chunks(&run, options);
            return Ok(stream::respond_with_events(run, writer, options));
        }
        let finished = run.collect().await?;
        let weight = finished.weight();
        app.workshop.run(weight, move || Ok(style.whole(finished))).await
    }

    /// Submits every choice; if one is refused, the others are cancelled.
    fn submit<S: Style>(self, app: &App) -> ApiResult<Run> {
        let plan = self.plan()?;
        let choices = 0..self.prompts.len() * self.options.n;
        let choices = choices.map(|index| self.submit_choice::<S>(index, &plan, app));
        Ok(Run {
            choices: choices.collect::<ApiResult<_>>()?,
            prompts: self.prompts.into(),
            n: self.options.n,
            flight: self.hold.flight,
        })
    }

    fn plan(&self) -> ApiResult<Plan> {
        let (options, base) = (&self.options, &self.hold.base);
        let defaults = &self.hold.defaults.sampling;
        let default_max_tokens = defaults.max_tokens.unwrap_or(self.default_max_tokens);
        Ok(Plan {
            sampling: options.sampling(defaults),
            max_tokens: self.max_tokens(base.max_context, default_max_tokens)?,
            stop_tokens: match options.ignore_eos {
                true => options.stop_token_ids.clone(),
                false => [base.tokenizer.end_tokens(), &options.stop_token_ids].concat(),
            },
            stops: Arc::new(Stops {
                strings: options
                    .asked
                    .stop
                    .clone()
                    .or_else(|| defaults.stop.clone())
                    .unwrap_or_default(),
                tokens: options.stop_token_ids.clone(),
            }),
        })
    }

    fn submit_choice<S: Style>(&self, index: usize, plan: &Plan, app: &App) -> ApiResult<Choice> {
        let (options, hold) = (&self.options, &self.hold);
        let prompt = &self.prompts[index / options.n];
        let mut sampling = plan.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(index as u64);
        let (sender, events) = unbounded_channel();
        hold.base.engine.submit(Request {
            prompt: prompt.clone(),
            grafts: hold.grafts.clone(),
            sampling,
            max_tokens: plan.max_tokens[index / options.n],
            stop_tokens: plan.stop_tokens.clone(),
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            tenant: hold.target.tenant().clone(),
            events: sender,
        })?;
        let stop = plan.stops.strings.clone();
        let text = TextStream::new(hold.base.tokenizer.clone(), stop, options.skip_special_tokens);
        Ok(Choice {
            index,
            events,
            text: if S::CONTINUES_PROMPT { text.continuing() } else { text },
            stops: plan.stops.clone(),
            meter: app.metrics.meter(&hold.target, hold.arrived, prompt.len()),
            cached_tokens: 0,
            ended: false,
        })
    }

    /// Most tokens to generate for each prompt.
    fn max_tokens(&self, max_context: usize, default: usize) -> ApiResult<Vec<usize>> {
        let room = |prompt: &Vec<TokenId>| {
            let tokens = prompt.len();
            let rest = max_context.saturating_sub(tokens);
            match self.options.asked.max_tokens {
                Some(wanted) if wanted <= rest && tokens <= max_context => Ok(wanted),
                None if rest > 0 => Ok(default.min(rest)),
                wanted => Err(ApiError::ContextLength(format!(
                    "this model's context holds {max_context} tokens; the prompt has {tokens} and {} were asked for",
                    wanted.map_or("at least 1".to_owned(), |wanted| wanted.to_string()),
                ))),
            }
        };
        self.prompts.iter().map(room).collect()
    }
}

impl Run {
    /// Waits for all choices; the flight goes on until the answer is written.
    pub(crate) async fn collect(self) -> Result<Finished, EngineError> {
        let outputs = try_join_all(self.choices.into_iter().map(Choice::collect)).await?;
        let mut tally = Tally::new(&self.prompts);
        for output in &outputs {
            tally.add(
                output.index.is_multiple_of(self.n),
                output.tokens.len(),
                Some(&output.end),
            );
        }
        Ok(Finished {
            outputs,
            prompts: self.prompts,
            n: self.n,
            usage: tally.usage(),
            _flight: self.flight,
        })
    }
}

/// All choices of a request, in the order of their index.
pub(crate) struct Finished {
    pub(crate) outputs: Vec<Output>,
    pub(crate) prompts: Arc<[Vec<TokenId>]>,
    /// Choices per prompt.
    pub(crate) n: usize,
    pub(crate) usage: Usage,
    /// Lands when the answer is written.
    pub(crate) _flight: Flight,
}

impl Finished {
    /// About the bytes that writing the answer goes through: log-probabilities make most of a large one.
    pub(crate) fn weight(&self) -> usize {
        const ENTRY: usize = 32;
        let top = |entry: &TokenLogprobs| entry.top.len() + 1;
        let weigh = |output: &Output| {
            let prompt: usize = output.prompt_logprobs.iter().flatten().map(top).sum();
            let generated: usize = output.logprobs.iter().map(top).sum();
            output.text.len() + ENTRY * (prompt + generated)
        };
        self.outputs.iter().map(weigh).sum()
    }
}

/// Counts the tokens of a request.
pub(crate) struct Tally {
    prompt_tokens: usize,
    completion_tokens: usize,
    cached_tokens: usize,
}

impl Tally {
    pub(crate) fn new(prompts: &[Vec<TokenId>]) -> Self {
        Self {
            prompt_tokens: prompts.iter().map(Vec::len).sum(),
            completion_tokens: 0,
            cached_tokens: 0,
        }
    }

    /// Adds tokens of a choice, and its end. A prompt counts once, with its first choice.
    pub(crate) fn add(&mut self, is_first: bool, tokens: usize, end: Option<&End>) {
        self.completion_tokens += tokens;
        if let Some(end) = end.filter(|_| is_first) {
            self.cached_tokens += end.cached_tokens;
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: self.cached_tokens,
            },
        }
    }
}
