//! What completions and chat have in common: the model, how to sample, when to stop, what to report.

use rootstock_engine::sampling::SamplingParams;
use rootstock_model::adapter::SamplingDefaults;
use rootstock_model::text::TokenId;
use serde_json::{Map, Value};

use super::fields::{Fields, integer_in, number_in, wrong_type};
use crate::error::{ApiError, ApiResult};

/// Entries of logit_bias, and stop tokens: each is looked at in every step, between the steps of all other requests,
/// and kept once per choice. OpenAI allows 300 biases.
const MAX_TOKEN_ENTRIES: usize = 1024;
/// Adapters of one weighted sum.
const MAX_SUMMANDS: usize = 16;
/// Most likely tokens reported per position.
pub(crate) const MAX_TOP_LOGPROBS: usize = 20;

/// What values are checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) vocab_size: usize,
    /// Most choices (`n` times prompts) of one request.
    pub(crate) choices: usize,
}

/// The model a request names, with the extensions for scaled and summed adapters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelChoice {
    pub(crate) model: String,
    pub(crate) adapter_scale: Option<f32>,
    pub(crate) adapters: Vec<(String, f32)>,
}

impl ModelChoice {
    /// A model as it is.
    pub(crate) fn plain(model: String) -> Self {
        Self {
            model,
            adapter_scale: None,
            adapters: Vec::new(),
        }
    }
}

/// When and what to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: bool,
}

/// Options that completions and chat share.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) model: ModelChoice,
    /// What adapters have defaults for, as far as the request says it.
    pub(crate) asked: SamplingDefaults,
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    /// Choices per prompt.
    pub(crate) n: usize,
    pub(crate) stop_token_ids: Vec<TokenId>,
    pub(crate) ignore_eos: bool,
    pub(crate) skip_special_tokens: bool,
    pub(crate) return_token_ids: bool,
    /// Spell tokens as `token_id:N` in logprobs.
    pub(crate) tokens_as_ids: bool,
    /// `None` for one answer in one piece.
    pub(crate) stream: Option<StreamOptions>,
}

impl Options {
    /// Takes the shared fields. `min_tokens` is the smallest `max_tokens` the endpoint allows.
    pub(crate) fn take(fields: &mut Fields, bounds: Bounds, min_tokens: usize) -> ApiResult<Self> {
        refuse_other_formats(fields)?;
        let n = fields.count("n", 1..=bounds.choices)?.unwrap_or(1);
        if let Some(best_of) = fields.count("best_of", 1..=usize::MAX)?
            && best_of != n
        {
            return Err(ApiError::unsupported("best_of", "is only supported when it equals 'n'"));
        }
        fields.string("user")?;
        Ok(Self {
            model: model_choice(fields)?,
            asked: asked(fields, min_tokens)?,
            logit_bias: logit_bias(fields.object("logit_bias")?.unwrap_or_default(), bounds)?,
            n,
            stop_token_ids: match fields.array("stop_token_ids")? {
                Some(ids) => {
                    at_most("stop_token_ids", ids.len(), MAX_TOKEN_ENTRIES)?;
                    token_ids("stop_token_ids", &ids, bounds)?
                }
                None => Vec::new(),
            },
            ignore_eos: fields.flag("ignore_eos")?,
            skip_special_tokens: fields.optional_flag("skip_special_tokens")?.unwrap_or(true),
            return_token_ids: fields.flag("return_token_ids")?,
            tokens_as_ids: fields.flag("return_tokens_as_token_ids")?,
            stream: stream_options(fields)?,
        })
    }

    /// How to sample: as the request says, else as its adapter's defaults say, else as ever.
    pub(crate) fn sampling(&self, defaults: &SamplingDefaults) -> SamplingParams {
        let (asked, ever) = (&self.asked, SamplingParams::default());
        let all = |k: &i64| *k > 0;
        SamplingParams {
            temperature: asked.temperature.or(defaults.temperature).unwrap_or(ever.temperature),
            top_p: asked.top_p.or(defaults.top_p).unwrap_or(ever.top_p),
            top_k: asked.top_k.or(defaults.top_k).filter(all).map(|k| k as usize),
            min_p: asked.min_p.or(defaults.min_p).unwrap_or(ever.min_p),
            presence_penalty: asked.presence_penalty.or(defaults.presence_penalty).unwrap_or(0.0),
            frequency_penalty: asked.frequency_penalty.or(defaults.frequency_penalty).unwrap_or(0.0),
            repetition_penalty: asked.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            logit_bias: self.logit_bias.clone(),
            seed: match asked.seed.or(defaults.seed) {
                Some(seed) => seed as u64,
                None => fastrand::u64(..),
            },
        }
    }
}

/// Ids of an array, each within the vocabulary.
pub(crate) fn token_ids(param: &str, items: &[Value], bounds: Bounds) -> ApiResult<Vec<TokenId>> {
    items.iter().map(|item| token_id(param, item, bounds)).collect()
}

fn at_most(param: &'static str, count: usize, most: usize) -> ApiResult<()> {
    match count <= most {
        true => Ok(()),
        false => Err(ApiError::invalid(
            param,
            format!("may have at most {most} entries, got {count}"),
        )),
    }
}

fn token_id(param: &str, value: &Value, bounds: Bounds) -> ApiResult<TokenId> {
    let last = bounds.vocab_size.saturating_sub(1) as i64;
    Ok(integer_in(param, value, 0..=last)? as TokenId)
}

fn refuse_other_formats(fields: &mut Fields) -> ApiResult<()> {
    if let Some(format) = fields.object("response_format")?
        && format.get("type").and_then(Value::as_str) != Some("text")
    {
        let problem = "supports only {\"type\": \"text\"}";
        return Err(ApiError::unsupported("response_format", problem));
    }
    if let Some(modalities) = fields.array("modalities")?
        && modalities.iter().any(|modality| modality != "text")
    {
        return Err(ApiError::unsupported("modalities", "supports only \"text\""));
    }
    Ok(())
}

fn model_choice(fields: &mut Fields) -> ApiResult<ModelChoice> {
    let adapters = fields.array("adapters")?.unwrap_or_default();
    at_most("adapters", adapters.len(), MAX_SUMMANDS)?;
    let adapters = adapters.into_iter().enumerate().map(summand);
    Ok(ModelChoice {
        model: fields.required_string("model")?,
        adapter_scale: fields.number("adapter_scale", f32::MIN..=f32::MAX)?,
        adapters: adapters.collect::<ApiResult<_>>()?,
    })
}

/// One `{"name", "scale"}` of `adapters`.
fn summand((index, item): (usize, Value)) -> ApiResult<(String, f32)> {
    let param = format!("adapters[{index}]");
    let Value::Object(mut fields) = item else {
        return Err(wrong_type(param, "an object with a name and a scale", &item));
    };
    let name = match fields.remove("name") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(wrong_type(format!("{param}.name"), "a string", &other)),
        None => return Err(ApiError::invalid(param, "has no name")),
    };
    let scale = match fields.remove("scale") {
        None | Some(Value::Null) => 1.0,
        Some(scale) => number_in(&format!("{param}.scale"), &scale, f32::MIN..=f32::MAX)?,
    };
    match fields.keys().next() {
        Some(extra) => Err(ApiError::unsupported(format!("{param}.{extra}"), "is not known")),
        None => Ok((name, scale)),
    }
}

fn asked(fields: &mut Fields, min_tokens: usize) -> ApiResult<SamplingDefaults> {
    let max_tokens = fields.count("max_tokens", min_tokens..=usize::MAX)?;
    let max_completion_tokens = fields.count("max_completion_tokens", min_tokens..=usize::MAX)?;
    Ok(SamplingDefaults {
        temperature: fields.number("temperature", SamplingDefaults::TEMPERATURE)?,
        top_p: match fields.number("top_p", 0.0..=*SamplingDefaults::TOP_P.end())? {
            Some(0.0) => return Err(ApiError::invalid("top_p", "must be above 0")),
            top_p => top_p,
        },
        top_k: fields.integer("top_k", SamplingDefaults::TOP_K)?,
        min_p: fields.number("min_p", SamplingDefaults::MIN_P)?,
        presence_penalty: fields.number("presence_penalty", SamplingDefaults::PENALTY)?,
        frequency_penalty: fields.number("frequency_penalty", SamplingDefaults::PENALTY)?,
        repetition_penalty: fields.number("repetition_penalty", SamplingDefaults::REPETITION_PENALTY)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?,
        max_tokens: max_completion_tokens.or(max_tokens),
        stop: stop_strings(fields)?,
    })
}

fn logit_bias(entries: Map<String, Value>, bounds: Bounds) -> ApiResult<Vec<(TokenId, f32)>> {
    at_most("logit_bias", entries.len(), MAX_TOKEN_ENTRIES)?;
    let entry = |(key, value): (String, Value)| {
        let id: TokenId = key
            .parse()
            .ok()
            // "+5" and "05" would be second spellings of one token.
            .filter(|id: &TokenId| (*id as usize) < bounds.vocab_size && id.to_string() == key)
            .ok_or_else(|| ApiError::invalid("logit_bias", format!("has {key:?}, which is not a token id")))?;
        Ok((id, number_in("logit_bias", &value, -100.0..=100.0)?))
    };
    entries.into_iter().map(entry).collect()
}

fn stop_strings(fields: &mut Fields) -> ApiResult<Option<Vec<String>>> {
    let items = match fields.take("stop") {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    let longest = SamplingDefaults::LONGEST_STOP;
    at_most("stop", items.len(), SamplingDefaults::MOST_STOPS)?;
    let stop = |item| match item {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid("stop", "may not hold an empty string")),
        Value::String(text) if text.len() > longest => {
            let problem = format!("may not hold strings above {longest} bytes");
            Err(ApiError::invalid("stop", problem))
        }
        Value::String(text) => Ok(text),
        other => Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    items.into_iter().map(stop).collect::<ApiResult<_>>().map(Some)
}

fn stream_options(fields: &mut Fields) -> ApiResult<Option<StreamOptions>> {
    let stream = fields.flag("stream")?;
    let mut include_usage = false;
    if let Some(mut options) = fields.object("stream_options")? {
        if !stream {
            return Err(ApiError::invalid("stream_options", "is only allowed with stream=true"));
        }
        match options.remove("include_usage") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(flag)) => include_usage = flag,
            Some(other) => return Err(wrong_type("stream_options.include_usage", "a boolean", &other)),
        }
        if options
            .get("continuous_usage_stats")
            .is_some_and(|value| *value == true)
        {
            let problem = "is not supported by this server";
            return Err(ApiError::unsupported("stream_options.continuous_usage_stats", problem));
        }
    }
    Ok(stream.then_some(StreamOptions { include_usage }))
}
