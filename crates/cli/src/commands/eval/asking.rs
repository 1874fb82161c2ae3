//! Asks all questions of all examples and candidates, many at once: the engine batches them, adapters mixed. Answers
//! depend neither on what runs beside them nor on the order in which they come.

use std::collections::VecDeque;

use anyhow::{Context, Result, anyhow};
use rootstock_model::adapter::SamplingDefaults;
use rootstock_train::dataset::Sample;
use rootstock_train::metrics::Likelihood;

use super::candidates::Candidate;
use super::examples::Examples;
use super::questions::{Exam, Question};
use crate::base::{Call, Generation, Score, Scoring};
use crate::progress::{Progress, Unit};
use crate::settings::GenerationSettings;

/// Examples in flight: enough to fill the engine's places while answers are taken in.
const IN_FLIGHT: usize = 64;
/// Whose turn an example's first question uses up, and the others'. They are asked when the first is answered, so that
/// they find its prompt in the prefix cache; and as the engine is fair between tenants, they do not wait behind other
/// examples until it is gone.
const FIRST: &str = "first";
const FURTHER: &str = "further";

/// What a candidate answered about an example.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Of what is learned.
    pub likelihood: Likelihood,
    /// Whether the example was cut.
    pub truncated: bool,
    /// Log-probability of each label.
    pub labels: Vec<f64>,
    /// What was generated.
    pub text: Option<String>,
}

/// An example whose questions are being answered for one candidate.
struct Running {
    /// Example and candidate.
    place: (usize, usize),
    reply: Reply,
    /// To be asked next.
    further: Vec<Question>,
}

/// An answer that is awaited.
enum Reply {
    Likelihood(Scoring, Sample),
    Label(usize, Scoring, Sample),
    Text(Generation),
}

/// Asks everything; answers are by example, then by candidate.
///
/// # Errors
/// An example that cannot be asked about, named by its file and line, or a fault of the engine.
pub async fn ask(exam: Exam<'_>) -> Result<Vec<Answer>> {
    let Exam { examples, team, .. } = exam;
    let labels = examples.labels.as_ref().map_or(0, |labels| labels.texts.len());
    let blank = Answer {
        labels: vec![f64::NEG_INFINITY; labels],
        ..Answer::default()
    };
    let pairs = examples.list.len() * team.candidates.len();
    let mut asking = Asking {
        exam,
        generation: greedy(exam.max_tokens),
        running: VecDeque::new(),
        answers: vec![blank; pairs],
        answered: 0,
        progress: Progress::start("examples", (pairs * exam.questions()) as u64, Unit::Questions),
    };
    for example in 0..examples.list.len() {
        for candidate in 0..team.candidates.len() {
            let begun = asking.begin((example, candidate));
            begun.map_err(|error| about(examples, example, error))?;
            while asking.running.len() >= IN_FLIGHT {
                asking.take_in().await?;
            }
        }
    }
    while !asking.running.is_empty() {
        asking.take_in().await?;
    }
    Ok(asking.answers)
}

/// An error about an example, with its file and line before it.
fn about(examples: &Examples, example: usize, error: anyhow::Error) -> anyhow::Error {
    anyhow!(examples.places[example].error(format!("{error:#}")))
}

/// The likeliest token each time, whatever an adapter's defaults say; what they say beyond that holds as it does when
/// it is served.
fn greedy(max_tokens: usize) -> GenerationSettings {
    GenerationSettings {
        asked: SamplingDefaults {
            temperature: Some(0.0),
            max_tokens: Some(max_tokens),
            ..SamplingDefaults::default()
        },
    }
}

struct Asking<'a> {
    exam: Exam<'a>,
    generation: GenerationSettings,
    /// Oldest first.
    running: VecDeque<Running>,
    answers: Vec<Answer>,
    answered: u64,
    progress: Progress,
}

impl Asking<'_> {
    /// Asks an example's first question.
    fn begin(&mut self, place: (usize, usize)) -> Result<()> {
        let (example, candidate) = (&self.exam.examples.list[place.0], &self.exam.team.candidates[place.1]);
        let questions = self.exam.about(example, candidate)?;
        self.answer(place).truncated = questions.truncated;
        let mut questions = questions.list.into_iter();
        let Some(first) = questions.next() else {
            return Ok(());
        };
        let reply = self.submit(first, candidate, FIRST)?;
        self.running.push_back(Running {
            place,
            reply,
            further: questions.collect(),
        });
        Ok(())
    }

    fn submit(&self, question: Question, candidate: &Candidate, tenant: &'static str) -> Result<Reply> {
        let score = |sample: &Sample| {
            self.exam.team.base.start_scoring(Score {
                tokens: sample.ids.clone(),
                from: sample
                    .learned
                    .iter()
                    .position(|&learned| learned)
                    .unwrap_or(sample.len()),
                held: candidate.held.clone(),
                tenant,
            })
        };
        Ok(match question {
            Question::Likelihood(sample) => Reply::Likelihood(score(&sample)?, sample),
            Question::Label(index, sample) => Reply::Label(index, score(&sample)?, sample),
            Question::Text { prompt, continues } => Reply::Text(self.exam.team.base.start_generation(Call {
                prompt,
                continues,
                held: candidate.held.clone(),
                settings: &self.generation,
            })?),
        })
    }

    /// Waits for the oldest answer.
    async fn take_in(&mut self) -> Result<()> {
        if let Some(running) = self.running.pop_front() {
            let example = running.place.0;
            let taken = self.go_on(running).await;
            taken.map_err(|error| about(self.exam.examples, example, error))?;
            self.answered += 1;
            self.progress.reached(self.answered);
        }
        Ok(())
    }

    /// Notes an answer and asks what was to be asked next.
    async fn go_on(&mut self, Running { place, reply, further }: Running) -> Result<()> {
        note(reply, self.answer(place)).await?;
        let candidate = &self.exam.team.candidates[place.1];
        for question in further {
            let reply = self.submit(question, candidate, FURTHER)?;
            self.running.push_back(Running {
                place,
                reply,
                further: Vec::new(),
            });
        }
        Ok(())
    }

    fn answer(&mut self, (example, candidate): (usize, usize)) -> &mut Answer {
        &mut self.answers[example * self.exam.team.candidates.len() + candidate]
    }
}

/// Waits for a reply and writes it down.
async fn note(reply: Reply, answer: &mut Answer) -> Result<()> {
    match reply {
        Reply::Likelihood(scoring, sample) => answer.likelihood = likelihood(scoring, &sample).await?,
        Reply::Label(index, scoring, sample) => {
            let place = answer.labels.get_mut(index).context("a label that is none")?;
            *place = likelihood(scoring, &sample).await?.logprob;
        }
        Reply::Text(generation) => answer.text = Some(generation.finish(|_| Ok(())).await?.text),
    }
    Ok(())
}

/// Sum over the learned tokens of a sample.
async fn likelihood(scoring: Scoring, sample: &Sample) -> Result<Likelihood> {
    let logprobs = scoring.finish().await?;
    let learned = sample.learned.iter().skip(sample.len() - logprobs.len());
    let mut sum = Likelihood::default();
    sum.add(
        logprobs
            .iter()
            .zip(learned)
            .filter_map(|(&logprob, &learned)| learned.then_some(logprob)),
    );
    Ok(sum)
}
