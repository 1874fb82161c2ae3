//! How fast a model reads a prompt and generates after it, alone on the machine.

use std::time::{Duration, Instant};

use rootstock_engine::runner::{Logits, OutputRows, RunnerError};
use rootstock_model::text::TokenId;

use super::Subject;
use super::subject::Rows;

/// Tokens that are generated in a round.
pub const DECODED: usize = 32;

/// Of as many rounds the fastest counts: whatever else the machine does only slows.
const ROUNDS: usize = 3;

/// Tokens per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of a prompt, in one step.
    pub prefill: f64,
    /// Of one sequence that is generated.
    pub decode: f64,
}

/// Measures a model that has room for the prompt and [`DECODED`] tokens after it.
///
/// # Errors
/// A step fails.
pub fn speed(subject: &mut Subject, prompt: &[TokenId]) -> Result<Speed, RunnerError> {
    let mut logits = Logits::default();
    let [mut prefill, mut decode] = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let started = Instant::now();
        subject.step(rows(prompt, 0), &mut logits)?;
        prefill = prefill.min(started.elapsed());
        let started = Instant::now();
        for generated in 0..DECODED {
            // Which tokens they are makes no difference to the time.
            let token = &prompt[generated % prompt.len()..][..1];
            let next = Rows {
                prompt: false,
                ..rows(token, prompt.len() + generated)
            };
            subject.step(next, &mut logits)?;
        }
        decode = decode.min(started.elapsed());
    }
    let per_second = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64();
    Ok(Speed {
        prefill: per_second(prompt.len(), prefill),
        decode: per_second(DECODED, decode),
    })
}

fn rows(tokens: &[TokenId], position: usize) -> Rows<'_> {
    Rows {
        tokens,
        position,
        prompt: true,
        outputs: OutputRows::Last,
    }
}
