//! Choices as server-sent events: chunks in the order they are generated, an error as the last event if one fails,
//! `[DONE]` at the end. Dropping the response cancels what runs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use rootstock_engine::EngineError;

use super::{Choice, Run, Step, Tally};
use crate::error::ApiError;
use crate::flight::Flight;
use crate::wire::Usage;
use crate::wire::options::StreamOptions;

/// Proxies close connections that are silent for long; a waiting request says this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Writes the chunks of one kind of answer.
pub(crate) trait ChunkWriter: Send + 'static {
    /// The chunk that opens a choice, if there is one.
    fn open(&mut self, choice: usize) -> Option<String>;
    /// The chunk of a step; `None` if it says nothing.
    fn step(&mut self, choice: usize, step: Step) -> Option<String>;
    /// The chunk with the usage and no choices.
    fn usage(&mut self, usage: Usage) -> String;
}

/// The streamed answer to a request.
pub(super) fn respond_with_events(run: Run, mut writer: impl ChunkWriter, options: StreamOptions) -> Response {
    let feed = Feed {
        ready: run
            .choices
            .iter()
            .filter_map(|choice| writer.open(choice.index))
            .collect(),
        tally: Tally::new(&run.prompts),
        choices: run.choices.into_iter().map(steps).collect(),
        n: run.n,
        writer,
        include_usage: options.include_usage,
        flight: Some(run.flight),
    };
    let events = stream::unfold(feed, |mut feed| async {
        let data = feed.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), feed))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Keeps nginx from collecting the stream before it passes it on.
    ([("x-accel-buffering", "no")], events).into_response()
}

type Tagged = (usize, Result<Step, EngineError>);

/// The steps of a choice, each with the choice's index.
fn steps(choice: Choice) -> BoxStream<'static, Tagged> {
    stream::unfold(choice, |mut choice| async {
        let step = choice.next().await.transpose()?;
        Some(((choice.index, step), choice))
    })
    .boxed()
}

/// State of a stream: what is to be sent next, and where more comes from.
struct Feed<W> {
    ready: VecDeque<String>,
    choices: SelectAll<BoxStream<'static, Tagged>>,
    n: usize,
    writer: W,
    tally: Tally,
    include_usage: bool,
    /// Held until the last event is written down; `None` after it.
    flight: Option<Flight>,
}

impl<W: ChunkWriter> Feed<W> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            self.flight.as_ref()?;
            match self.choices.next().await {
                Some((index, Ok(step))) => self.step(index, step),
                Some((_, Err(error))) => self.end(Some(ApiError::Engine(error).body())),
                None => {
                    let usage = self.include_usage.then(|| self.writer.usage(self.tally.usage()));
                    self.end(usage);
                }
            }
        }
    }

    fn step(&mut self, index: usize, step: Step) {
        if let Step::Delta(delta) = &step {
            self.tally
                .add(index.is_multiple_of(self.n), delta.tokens.len(), delta.end.as_ref());
        }
        self.ready.extend(self.writer.step(index, step));
    }

    fn end(&mut self, last: Option<String>) {
        self.choices.clear();
        self.ready.extend(last);
        self.ready.push_back("[DONE]".to_owned());
        self.flight = None;
    }
}
