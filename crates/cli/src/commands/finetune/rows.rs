//! Rows of a file as samples: read, split, tokenized, packed; and which of them are asked about at the end.

use anyhow::Result;
use rootstock_model::Checkpoint;
use rootstock_train::dataset::{Encoder, Example, Row as FileRow, Shape, Truncation, hold_out, load, pack, pack_texts};
use rootstock_train::report::DatasetFacts;
use rootstock_train::run::Row;

use crate::UsageError;
use crate::settings::FinetuneSettings;

/// What is trained on and what is held out.
pub struct Rows {
    /// Trained on.
    pub train: Vec<Row>,
    /// Held out.
    pub eval: Vec<Row>,
    /// Samples of both that were cut.
    pub truncated: usize,
    /// Samples of both in which nothing is to be learned.
    pub left_out: usize,
    /// Examples held out that are asked about before and after.
    pub prompts: Vec<Example>,
}

impl Rows {
    /// Reads the rows of the settings.
    ///
    /// # Errors
    /// A file or a row that cannot be read, by its line.
    pub fn read(settings: &FinetuneSettings, checkpoint: &Checkpoint) -> Result<Self> {
        let encoder = Encoder::for_model(checkpoint, settings.max_length, Truncation::default())?;
        let train = examples(settings, &load(&settings.rows, &settings.train)?)?;
        let (train, eval) = match &settings.eval {
            Some(slice) => (train, examples(settings, &load(&settings.rows, slice)?)?),
            None => {
                let split = hold_out(&train, settings.eval_share, settings.run.seed);
                let of = |indices: &[usize]| indices.iter().map(|&index| train[index].clone()).collect();
                (of(&split.train), of(&split.held_out))
            }
        };
        let prompts = spread(&eval, settings.report_samples);
        let mut counts = Counts::default();
        let mut encode = |examples: &[Example]| samples(settings, &encoder, examples, &mut counts);
        let (train, eval) = (encode(&train)?, encode(&eval)?);
        if train.is_empty() {
            return Err(UsageError(format!("{}: there is nothing to learn in it", settings.rows.display())).into());
        }
        Ok(Self {
            train,
            eval,
            truncated: counts.truncated,
            left_out: counts.left_out,
            prompts,
        })
    }

    /// What is trained on, and what is held out.
    pub fn both(&self) -> (&[Row], &[Row]) {
        (&self.train, &self.eval)
    }

    /// What a report says of them.
    pub fn facts(&self) -> DatasetFacts {
        let samples = || self.train.iter().flatten();
        DatasetFacts {
            rows: self.train.len() as u64,
            held_out: self.eval.len() as u64,
            tokens: samples().map(|sample| sample.len() as u64).sum(),
            learned: samples().map(|sample| sample.learned_tokens() as u64).sum(),
            truncated: self.truncated as u64,
        }
    }
}

#[derive(Default)]
struct Counts {
    truncated: usize,
    left_out: usize,
}

/// So many of the examples, from all over them: sorted rows have the same label side by side.
fn spread(examples: &[Example], count: usize) -> Vec<Example> {
    let count = count.min(examples.len());
    let at = |index: usize| examples[index * examples.len() / count].clone();
    (0..count).map(at).collect()
}

fn examples(settings: &FinetuneSettings, rows: &[FileRow]) -> Result<Vec<Example>> {
    let shape = match (&settings.template, rows.first()) {
        (Some(template), _) => Shape::Template(template.clone()),
        (None, Some(row)) => Shape::of(row)?,
        (None, None) => return Ok(Vec::new()),
    };
    Ok(rows.iter().map(|row| shape.read(row)).collect::<Result<_, _>>()?)
}

/// Samples of examples, packed where that is asked for; those without a token to learn teach nothing and are left out.
fn samples(
    settings: &FinetuneSettings,
    encoder: &Encoder,
    examples: &[Example],
    counts: &mut Counts,
) -> Result<Vec<Row>> {
    let texts = examples.iter().all(|example| matches!(example, Example::Text(_)));
    let whole = settings.packing && texts;
    let mut samples = Vec::new();
    for example in examples {
        let encoded = if whole {
            encoder.encode_whole(example)?
        } else {
            encoder.encode(example)?
        };
        counts.truncated += usize::from(encoded.truncated);
        samples.push(encoded.sample);
    }
    let all = samples.len();
    samples.retain(|sample| sample.learned_tokens() > 0);
    counts.left_out += all - samples.len();
    let packed = match (settings.packing, whole) {
        (false, _) => return Ok(samples.into_iter().map(|sample| vec![sample]).collect()),
        (true, true) => pack_texts(samples, settings.max_length),
        (true, false) => pack(samples, settings.max_length)?,
    };
    let rows = packed.into_iter().map(|row| row.samples);
    Ok(rows
        .filter(|row| row.iter().any(|sample| sample.learned_tokens() > 0))
        .collect())
}
