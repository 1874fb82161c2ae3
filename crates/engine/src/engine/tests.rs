//! The engine over the fake runner: every request must get exactly what it gets alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rootstock_model::text::TokenId;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::generation::Report;
use super::worker::{Accepted, Worker};
use super::{Engine, EngineSettings, EngineStats, Gauges, Slot};
use crate::adapters::AdapterStore;
use crate::adapters::tests::{FakeSource, block_on, eventually};
use crate::fake::{Control, FakeRunner, Fault, adapter_hash, logits_alone};
use crate::runner::{AppliedAdapter, Capabilities};
use crate::sampling::{Draws, Sampler, SamplingParams, Scratch, score};
use crate::{EngineError, Event, FinishReason, Graft, PromptScoring, Request, SubmitError, Usage};

const VOCABULARY: usize = 11;

fn settings(max_sequences: usize, max_batch_rows: usize) -> EngineSettings {
    EngineSettings {
        max_sequences,
        max_waiting: 1_000,
        max_batch_rows,
        prefix_cache: true,
        decode_slowdown: 2.5,
    }
}

fn capabilities(blocks: usize, block_tokens: usize) -> Capabilities {
    Capabilities {
        vocab_size: VOCABULARY,
        max_context: 64,
        block_tokens,
        blocks,
        prompts_apart: true,
    }
}

/// A request and the end at which its events arrive.
fn request(prompt: &[TokenId], max_tokens: usize) -> (Request, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let request = Request {
        prompt: prompt.to_vec(),
        grafts: Vec::new(),
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        max_tokens,
        stop_tokens: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        tenant: "tenant".into(),
        events,
    };
    (request, receiver)
}

/// The events of a request that runs alone, without engine, scheduler or blocks.
fn alone(request: &Request, limit: usize) -> Vec<Event> {
    let applied = |graft: &Graft| AppliedAdapter {
        weights: Arc::clone(graft.lease.weights()),
        scale: graft.scale,
    };
    let adapters = adapter_hash(&request.grafts.iter().map(applied).collect::<Vec<_>>());
    let mut events = vec![Event::Started { cached_tokens: 0 }];
    let mut tokens = request.prompt.clone();
    if let Some(PromptScoring { from, top }) = request.prompt_logprobs {
        let scored = |end: usize| {
            score(
                &logits_alone(&tokens[..end], end, adapters, VOCABULARY),
                tokens[end],
                top,
            )
        };
        events.push(Event::PromptLogprobs(
            (0..tokens.len())
                .map(|place| if place < from.max(1) { None } else { scored(place) })
                .collect(),
        ));
    }
    let mut sampler = Sampler::new(request.sampling.clone(), &request.prompt);
    let mut usage = Usage {
        prompt_tokens: tokens.len(),
        ..Usage::default()
    };
    let most = request.max_tokens.min(limit - tokens.len());
    let mut reason = FinishReason::Length;
    while usage.completion_tokens < most {
        let logits = logits_alone(&tokens, request.prompt.len(), adapters, VOCABULARY);
        let id = sampler.sample(&logits, &mut Scratch::default()).expect("finite logits");
        if request.stop_tokens.contains(&id) {
            reason = FinishReason::Stop(id);
            break;
        }
        events.push(Event::Token {
            id,
            logprobs: request.logprobs.and_then(|top| score(&logits, id, top)),
        });
        tokens.push(id);
        usage.completion_tokens += 1;
    }
    events.push(Event::Finished { reason, usage });
    events
}

/// All events so far, without how much was cached, which is the one thing that may differ from running alone.
fn received(receiver: &mut UnboundedReceiver<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(mut event) = receiver.try_recv() {
        match &mut event {
            Event::Started { cached_tokens } => *cached_tokens = 0,
            Event::Finished { usage, .. } => usage.cached_tokens = 0,
            _ => {}
        }
        events.push(event);
    }
    events
}

/// All events up to the last one.
fn wait(mut receiver: UnboundedReceiver<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = block_on(receiver.recv()) {
        events.push(event);
    }
    events
}

/// Told twice: when the request starts, for those that cut it short, and in the usage at its end.
fn cached(events: &[Event]) -> usize {
    match events {
        [Event::Started { cached_tokens }, .., Event::Finished { usage, .. }] => {
            assert_eq!(*cached_tokens, usage.cached_tokens);
            usage.cached_tokens
        }
        other => panic!("not started and finished: {other:?}"),
    }
}

/// A worker driven by hand, without its thread.
struct Bench {
    worker: Worker,
    gauges: Arc<Gauges>,
    control: Arc<Control>,
    limit: usize,
}

impl Bench {
    fn new(capabilities: Capabilities, settings: EngineSettings) -> Self {
        let (runner, control) = FakeRunner::new(capabilities, settings.max_batch_rows);
        let stats = Mutex::new(EngineStats::default());
        let gauges = Arc::new(Gauges {
            unfinished: AtomicUsize::new(0),
            stats,
            ended: AtomicBool::new(false),
        });
        let limit = capabilities
            .max_context
            .min(capabilities.blocks * capabilities.block_tokens);
        let (_, inbox) = crossbeam_channel::unbounded();
        let worker = Worker::new(Box::new(runner), settings, limit, inbox, Arc::clone(&gauges));
        Self {
            worker,
            gauges,
            control,
            limit,
        }
    }

    fn accept(&mut self, request: Request) {
        let report = Report::new(request.events.clone());
        let slot = Slot::take(&self.gauges, usize::MAX).expect("no bound");
        self.worker.accept(Accepted { request, report, slot });
    }

    fn unfinished(&self) -> usize {
        self.gauges.unfinished.load(Ordering::Relaxed)
    }

    fn stats(&self) -> EngineStats {
        *self.gauges.stats.lock()
    }
}

/// Random requests: few templates, so that prefixes repeat; all parameters that change what happens next.
struct Traffic {
    draws: Draws,
    templates: Vec<Vec<TokenId>>,
    grafts: Vec<Vec<Graft>>,
}

impl Traffic {
    fn new(seed: u64, limit: usize, store: &AdapterStore) -> Self {
        let mut draws = Draws::new(seed, 1);
        let mut template = || (0..limit).map(|_| (draws.next_u64() % 3) as TokenId).collect();
        let templates = (0..3).map(|_| template()).collect();
        let graft = |name, scale| {
            let lease = block_on(store.acquire(&[name])).expect("registered").remove(0);
            Graft { lease, scale }
        };
        let grafts = vec![
            vec![],
            vec![graft("a", 1.0)],
            vec![graft("a", 0.5)],
            vec![graft("b", 1.0)],
            vec![graft("a", 1.0), graft("b", 1.0)],
            vec![graft("b", 1.0), graft("a", 1.0)],
        ];
        Self {
            draws,
            templates,
            grafts,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draws.next_u64() % bound as u64) as usize
    }

    fn next(&mut self, limit: usize) -> (Request, UnboundedReceiver<Event>) {
        let length = 1 + self.below(limit - 1);
        let template = self.below(self.templates.len());
        let max_tokens = self.below(limit);
        let (mut request, receiver) = request(&self.templates[template][..length], max_tokens);
        let grafts = self.below(self.grafts.len());
        request.grafts = self.grafts[grafts].clone();
        request.tenant = ["x", "y", "z"][self.below(3)].into();
        request.logprobs = [None, Some(2)][self.below(2)];
        let scoring = PromptScoring {
            from: self.below(8),
            top: 1,
        };
        request.prompt_logprobs = [None, None, None, Some(scoring)][self.below(4)];
        request.stop_tokens = vec![[7, 99][self.below(2)]];
        request.sampling = SamplingParams {
            temperature: [0.0, 1.0][self.below(2)],
            top_k: [None, Some(5)][self.below(2)],
            frequency_penalty: [0.0, 0.5][self.below(2)],
            repetition_penalty: [1.0, 1.2][self.below(2)],
            seed: self.below(1_000) as u64,
            ..SamplingParams::default()
        };
        (request, receiver)
    }
}

fn adapter_store() -> (AdapterStore, Arc<FakeSource>) {
    let source = Arc::new(FakeSource::default());
    let store = AdapterStore::with_source(1_000, Arc::clone(&source) as _);
    for (name, content) in [("a", 1), ("b", 2)] {
        source.put(name, content, 10);
        store.register(name, name.as_ref()).expect("registered");
    }
    (store, source)
}

/// Runs one random load to its end; returns what it exercised.
fn run_random_load(seed: u64, store: &AdapterStore) -> (EngineStats, usize) {
    let mut shape = Draws::new(seed, 0);
    let mut between = |low: u64, high: u64| (low + shape.next_u64() % (high - low + 1)) as usize;
    let capabilities = capabilities(between(4, 24), between(1, 4));
    let settings = settings(between(1, 8), between(1, 24));
    let mut bench = Bench::new(capabilities, settings);
    let mut traffic = Traffic::new(seed, bench.limit, store);
    let mut open = Vec::new();
    let (mut arrived, mut failed) = (0, 0);
    for round in 0.. {
        assert!(round < 100_000, "seed {seed}: the load never ends");
        while arrived < 40 && traffic.below(3) > 0 {
            arrived += 1;
            let (request, receiver) = traffic.next(bench.limit);
            let expected = alone(&request, bench.limit);
            bench.accept(request);
            // Some callers leave at once, some later.
            if traffic.below(10) > 0 {
                open.push((expected, receiver, Vec::new()));
            }
        }
        if !open.is_empty() && traffic.below(40) == 0 {
            let index = traffic.below(open.len());
            open.swap_remove(index);
        }
        let fault = [Fault::Error, Fault::Panic, Fault::Short, Fault::NotFinite];
        let fault = if traffic.below(60) == 0 {
            fault[traffic.below(4)]
        } else {
            Fault::None
        };
        bench.control.plan_faults(&[fault]);
        bench.worker.round();
        open.retain_mut(|(expected, receiver, events): &mut (Vec<Event>, _, Vec<Event>)| {
            events.extend(received(receiver));
            match events.last() {
                Some(Event::Failed(EngineError::Runner(_))) => {
                    failed += 1;
                    events.pop();
                    assert!(expected.starts_with(events), "seed {seed}: wrong before the fault");
                    false
                }
                Some(Event::Finished { .. }) => {
                    assert_eq!(events, expected, "seed {seed}");
                    false
                }
                _ => true,
            }
        });
        if arrived == 40 && bench.unfinished() == 0 {
            break;
        }
    }
    assert!(
        open.is_empty(),
        "seed {seed}: {} requests got no last event",
        open.len()
    );
    let stats = bench.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.blocks_used),
        (0, 0, 0),
        "seed {seed}"
    );
    (stats, failed)
}

#[test]
fn under_any_load_every_request_gets_what_it_gets_alone() {
    let (store, _source) = adapter_store();
    let (mut preemptions, mut hits, mut failures) = (0, 0, 0);
    for seed in 0..200 {
        let (stats, failed) = run_random_load(seed, &store);
        preemptions += stats.preemptions;
        hits += stats.prefix_hits;
        failures += failed;
    }
    assert!(
        preemptions > 200 && hits > 1_000 && failures > 50,
        "{preemptions}, {hits}, {failures}"
    );
    assert!(store.unload("a") && store.unload("b"));
    assert_eq!(store.stats().resident_bytes, 0, "every lease came back");
}

fn start(blocks: usize, settings: EngineSettings) -> (Engine, Arc<Control>) {
    let (runner, control) = FakeRunner::new(capabilities(blocks, 4), settings.max_batch_rows);
    (Engine::start(Box::new(runner), settings), control)
}

fn complete(engine: &Engine, request: (Request, UnboundedReceiver<Event>)) -> Vec<Event> {
    engine.submit(request.0).expect("accepted");
    wait(request.1)
}

#[test]
fn a_failed_or_panicking_step_fails_its_requests_and_the_engine_lives_on() {
    let (engine, control) = start(16, settings(4, 16));
    for fault in [Fault::Error, Fault::Panic, Fault::Short, Fault::NotFinite] {
        control.plan_faults(&[Fault::None, fault]);
        let events = complete(&engine, request(&[1; 9], 5));
        assert!(
            matches!(
                events[..],
                [
                    Event::Started { .. },
                    Event::Token { .. },
                    Event::Failed(EngineError::Runner(_))
                ]
            ),
            "{events:?}"
        );
        let healthy = request(&[1; 9], 5);
        let expected = alone(&healthy.0, 64);
        assert_eq!(
            complete(&engine, healthy),
            expected,
            "and nothing of the failed step is reused"
        );
        assert_eq!(engine.stats().blocks_used, 0);
    }
}

#[test]
fn the_queue_bound_is_exact_and_its_places_come_back() {
    let (engine, control) = start(
        16,
        EngineSettings {
            max_waiting: 2,
            ..settings(1, 16)
        },
    );
    control.hold();
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let (request, receiver) = request(&[1], 2);
        engine.submit(request).expect("one runs and two wait");
        accepted.push(receiver);
    }
    assert_eq!(
        engine.submit(request(&[1], 2).0),
        Err(SubmitError::QueueFull { bound: 2 })
    );
    control.release();
    for receiver in accepted {
        assert!(matches!(wait(receiver).last(), Some(Event::Finished { .. })));
    }
    assert_eq!(engine.stats().waiting, 0);
    assert_eq!(complete(&engine, request(&[1], 2)).len(), 4);
}

#[test]
fn draining_ends_every_accepted_request_whole_and_refuses_later_ones() {
    let (engine, control) = start(16, settings(2, 16));
    control.hold();
    let mut receivers = Vec::new();
    for token in 0..6 {
        let (request, receiver) = request(&[token], 4);
        receivers.push((alone(&request, 64), receiver));
        engine.submit(request).expect("accepted");
    }
    let drains = [engine.clone(), engine.clone()].map(|engine| std::thread::spawn(move || engine.drain()));
    eventually("the engine refuses", || {
        engine.submit(request(&[1], 1).0) == Err(SubmitError::ShuttingDown)
    });
    assert!(engine.is_alive());
    control.release();
    for drain in drains {
        drain.join().expect("drained");
    }
    assert!(!engine.is_alive());
    for (expected, mut receiver) in receivers {
        assert_eq!(received(&mut receiver), expected);
    }
}

#[test]
fn a_dropped_receiver_frees_its_blocks() {
    let (engine, control) = start(16, settings(4, 16));
    control.hold();
    let (request, receiver) = request(&[1; 20], 40);
    engine.submit(request).expect("accepted");
    drop(receiver);
    control.release();
    eventually("the sequence is gone", || {
        let stats = engine.stats();
        stats.running + stats.waiting + stats.blocks_used == 0
    });
    assert!(engine.stats().steps < 40);
}

#[test]
fn prompts_are_checked_against_context_pool_and_vocabulary() {
    // 16 blocks of 4 tokens are as much as the context; 5 blocks are less.
    for (blocks, limit) in [(16, 64), (5, 20), (100, 64)] {
        let (engine, _control) = start(blocks, settings(4, 16));
        let submit = |tokens: usize, max_tokens| engine.submit(request(&vec![1; tokens], max_tokens).0);
        assert_eq!(
            submit(limit, 1),
            Err(SubmitError::PromptTooLong { tokens: limit, limit })
        );
        assert_eq!(
            submit(limit + 1, 0),
            Err(SubmitError::PromptTooLong {
                tokens: limit + 1,
                limit
            })
        );
        assert_eq!(submit(limit, 0), Ok(()));
        assert_eq!(submit(0, 1), Err(SubmitError::EmptyPrompt));
        let events = complete(&engine, request(&vec![1; limit - 3], 100));
        let usage = Usage {
            prompt_tokens: limit - 3,
            cached_tokens: 0,
            completion_tokens: 3,
        };
        assert_eq!(
            events.last(),
            Some(&Event::Finished {
                reason: FinishReason::Length,
                usage
            })
        );
    }
    let (engine, _control) = start(16, settings(4, 16));
    let unknown = SubmitError::UnknownToken {
        token: 11,
        vocab_size: VOCABULARY,
    };
    assert_eq!(engine.submit(request(&[1, 11], 1).0), Err(unknown));
}

#[test]
fn scoring_a_prompt_needs_no_generation() {
    let (engine, _control) = start(16, settings(4, 16));
    let (mut request, receiver) = request(&[1, 2, 3, 4, 5, 6], 0);
    request.prompt_logprobs = Some(PromptScoring { from: 0, top: 3 });
    let expected = alone(&request, 64);
    assert_eq!(complete(&engine, (request, receiver)), expected);
    assert!(matches!(
        expected[..],
        [Event::Started { .. }, Event::PromptLogprobs(_), Event::Finished { .. }]
    ));
}

#[test]
fn a_prefix_is_shared_only_under_equal_adapter_content_and_scale() {
    let (engine, _control) = start(16, settings(4, 16));
    let (store, source) = adapter_store();
    let run = |name: &str, scale| {
        let (mut request, receiver) = request(&[1; 9], 1);
        let lease = block_on(store.acquire(&[name])).expect("registered").remove(0);
        request.grafts = vec![Graft { lease, scale }];
        cached(&complete(&engine, (request, receiver)))
    };
    assert_eq!(cached(&complete(&engine, request(&[1; 9], 1))), 0);
    assert_eq!(cached(&complete(&engine, request(&[1; 9], 1))), 8);
    assert_eq!(
        [run("a", 1.0), run("a", 1.0), run("a", 0.5), run("b", 1.0)],
        [0, 8, 0, 0]
    );
    source.put("a", 3, 10);
    store.load("a", "a".as_ref()).expect("replaced");
    assert_eq!(
        [run("a", 1.0), run("a", 1.0)],
        [0, 8],
        "a replaced adapter of the same name"
    );
    source.put("c", 2, 10);
    store.load("c", "c".as_ref()).expect("loaded");
    assert_eq!(run("c", 1.0), 8, "equal content under another name");
}
