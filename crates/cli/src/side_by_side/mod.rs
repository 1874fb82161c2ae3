//! Two models over the same text, token by token: what `compare` and the report of `quantize` measure. The models run here
//! without an engine, since whole rows of logits are wanted and nothing is served meanwhile; adapters and precisions are those of
//! serving all the same, because the runner is.

mod speed;
mod subject;
#[cfg(test)]
mod tests;
mod windows;

use anyhow::{Result, anyhow, bail};
use rootstock_engine::runner::Logits;
use rootstock_kernels::{Context, Isa, LogitPairs, ThreadPool};
use rootstock_model::text::Tokenizer;
use rootstock_optimize::divergence::{Comparison, Divergence};

pub use speed::{DECODED, Speed, speed};
pub use subject::{Subject, SubjectSettings, refused};
pub use windows::{Cut, Windows};

/// Logits of one model that stand at a time.
const LOGIT_BYTES: usize = 64 << 20;

/// Compares `other` with `source` over all windows; `reached` is told how many tokens are done.
///
/// # Errors
/// Vocabularies that differ, a window that does not fit a model, logits that are not finite, or windows that predict nothing.
pub fn compare(
    source: &mut Subject,
    other: &mut Subject,
    windows: &Windows,
    reached: impl Fn(u64),
) -> Result<Comparison> {
    let at_once = LOGIT_BYTES / (source.vocab_size() * size_of::<f32>());
    compare_rows(source, other, windows, (at_once.max(1), reached))
}

/// The same, with logits of so many rows at a time.
fn compare_rows(
    source: &mut Subject,
    other: &mut Subject,
    windows: &Windows,
    (at_once, reached): (usize, impl Fn(u64)),
) -> Result<Comparison> {
    check_vocabulary(source, other)?;
    let mut context = Context {
        pool: ThreadPool::new(source.threads())?,
        isa: Isa::detect()?,
    };
    let mut divergence = Divergence::default();
    let [mut of_source, mut of_other] = [Logits::default(), Logits::default()];
    let mut done = 0;
    for window in windows.iter() {
        let inputs = &window[..window.len() - 1];
        for (index, rows) in inputs.chunks(at_once).enumerate() {
            let position = index * at_once;
            source.run(rows, position, &mut of_source)?;
            other.run(rows, position, &mut of_other)?;
            let pairs = LogitPairs {
                source: &of_source.values,
                other: &of_other.values,
                targets: &window[position + 1..position + 1 + rows.len()],
            };
            divergence.add(&mut context, pairs)?;
            done += rows.len() as u64;
            reached(done);
        }
    }
    divergence
        .comparison()
        .ok_or_else(|| anyhow!("the text has too few tokens: nothing is predicted"))
}

/// Tokens mean the same to both.
fn check_vocabulary(source: &Subject, other: &Subject) -> Result<()> {
    let (name, of) = (other.name(), source.name());
    let (expected, got) = (source.vocab_size(), other.vocab_size());
    if expected != got {
        bail!(
            "{name}: expected a vocabulary of {expected} tokens as {of} has, got {got}; their distributions cannot be compared"
        );
    }
    match first_difference(source.tokenizer(), other.tokenizer(), expected) {
        None => Ok(()),
        Some(id) => {
            let [expected, got] = [source, other].map(|subject| subject.tokenizer().token_text(id));
            bail!("{name}: token {id} is {got:?}, but {expected:?} in {of}; their distributions cannot be compared")
        }
    }
}

/// The first token that both know and spell in different ways. What only one of them has a spelling for is padding.
fn first_difference(a: &Tokenizer, b: &Tokenizer, vocab_size: usize) -> Option<u32> {
    (0..vocab_size as u32).find(|&id| match (a.token_bytes(id), b.token_bytes(id)) {
        (Some(a), Some(b)) => a != b,
        _ => false,
    })
}
