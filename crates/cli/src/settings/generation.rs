//! How `generate` and `chat` choose tokens: what was asked for, over an adapter's defaults, over the command's own.

use std::time::{SystemTime, UNIX_EPOCH};

use rootstock_engine::sampling::SamplingParams;
use rootstock_model::adapter::SamplingDefaults;

use super::{Result, usage, within};
use crate::args::SamplingArgs;

/// How a command of one conversation generates, as far as its arguments say.
#[derive(Debug, Clone)]
pub struct GenerationSettings {
    /// What was asked for; the adapter's defaults fill what is not, then those of the command.
    pub asked: SamplingDefaults,
}

/// Most tokens where nothing else is said.
pub const DEFAULT_MAX_TOKENS: usize = 256;

/// A [`GenerationSettings`] with nothing left open.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Choice of tokens.
    pub sampling: SamplingParams,
    /// Most tokens.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
}

impl GenerationSettings {
    /// Checks the arguments.
    ///
    /// # Errors
    /// A number out of range.
    pub fn new(args: SamplingArgs) -> Result<Self> {
        if args.stop.iter().any(String::is_empty) {
            return Err(usage("--stop: an empty text would end every generation at once"));
        }
        let checked = |option: &str, value: Option<f32>, least, most| {
            value.map(|value| within(option, value, least, most)).transpose()
        };
        let count =
            |option: &str, value: Option<usize>| value.map(|count| within(option, count, 1, 1 << 24)).transpose();
        let asked = SamplingDefaults {
            temperature: checked("temperature", args.temperature, 0.0, 100.0)?,
            top_p: checked("top-p", args.top_p, 0.0, 1.0)?,
            top_k: count("top-k", args.top_k)?.map(|k| k as i64),
            min_p: checked("min-p", args.min_p, 0.0, 1.0)?,
            presence_penalty: checked("presence-penalty", args.presence_penalty, -2.0, 2.0)?,
            frequency_penalty: checked("frequency-penalty", args.frequency_penalty, -2.0, 2.0)?,
            repetition_penalty: checked("repetition-penalty", args.repetition_penalty, 0.01, 100.0)?,
            // The bits are what counts; servers take a signed integer.
            seed: args.seed.map(|seed| seed as i64),
            max_tokens: count("max-tokens", args.max_tokens)?,
            stop: Some(args.stop).filter(|stop| !stop.is_empty()),
        };
        Ok(Self { asked })
    }

    /// With what an adapter's defaults and then the command's say of the rest.
    pub fn settle(&self, defaults: &SamplingDefaults) -> Settled {
        let asked = &self.asked;
        let from_clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos() as u64)
        };
        let seed = asked.seed.or(defaults.seed).map(|seed| seed as u64);
        Settled {
            sampling: SamplingParams {
                temperature: asked.temperature.or(defaults.temperature).unwrap_or(0.0),
                top_p: asked.top_p.or(defaults.top_p).unwrap_or(1.0),
                top_k: asked
                    .top_k
                    .or(defaults.top_k)
                    .and_then(|k| usize::try_from(k).ok())
                    .filter(|k| *k > 0),
                min_p: asked.min_p.or(defaults.min_p).unwrap_or(0.0),
                presence_penalty: asked.presence_penalty.or(defaults.presence_penalty).unwrap_or(0.0),
                frequency_penalty: asked.frequency_penalty.or(defaults.frequency_penalty).unwrap_or(0.0),
                repetition_penalty: asked.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
                logit_bias: Vec::new(),
                seed: seed.unwrap_or_else(from_clock),
            },
            max_tokens: asked.max_tokens.or(defaults.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS),
            stop: asked.stop.clone().or_else(|| defaults.stop.clone()).unwrap_or_default(),
        }
    }
}
