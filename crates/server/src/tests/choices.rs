//! What a choice makes of the engine's events.

use std::sync::Arc;
use std::time::Instant;

use rootstock_engine::{EngineError, Event};
use rootstock_model::text::TextStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::counter::tokenizer;
use super::world::{BASE, World, world};
use crate::generation::{Choice, Step, Stops};
use crate::target::Target;
use crate::wire::options::ModelChoice;

fn choice(world: &World, strings: &[&str]) -> (UnboundedSender<Event>, Choice) {
    let (sender, events) = unbounded_channel();
    let strings: Vec<String> = strings.iter().map(ToString::to_string).collect();
    let target = Target::resolve(&ModelChoice::plain(BASE.to_owned()), &world.app.bases.current()).unwrap();
    let choice = Choice {
        index: 0,
        events,
        text: TextStream::new(Arc::new(tokenizer()), strings.clone(), true),
        stops: Arc::new(Stops {
            strings,
            tokens: Vec::new(),
        }),
        meter: world.app.metrics.meter(&target, Instant::now(), 1),
        cached_tokens: 0,
        ended: false,
    };
    (sender, choice)
}

#[tokio::test]
async fn a_stop_string_cancels_the_generation_at_once() {
    let world = world();
    let (sender, mut choice) = choice(&world, &["cd"]);
    for id in [98, 99, 100] {
        sender.send(Event::Token { id, logprobs: None }).unwrap();
    }
    for expected in [None, None, Some("stop")] {
        assert!(!sender.is_closed());
        let Some(Step::Delta(delta)) = choice.next().await.unwrap() else {
            panic!("a token is a delta");
        };
        assert_eq!(delta.end.map(|end| end.reason), expected);
    }
    assert!(sender.is_closed());
    assert!(choice.next().await.unwrap().is_none());
}

#[tokio::test]
async fn an_engine_that_goes_away_is_an_error() {
    let world = world();
    let (sender, choice) = choice(&world, &[]);
    drop(sender);
    assert_eq!(choice.collect().await.err(), Some(EngineError::Stopped));
}
