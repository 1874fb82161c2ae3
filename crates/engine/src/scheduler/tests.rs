//! Order, bounds and fairness of plans. That plans compute the right thing is tested through the engine.

use super::{Chunk, NewSequence, Plan, Scheduler, SchedulerSettings, SequenceId};
use crate::kv::BlockPool;
use crate::runner::OutputRows;

const BLOCK: usize = 4;

fn scheduler(blocks: usize, max_sequences: usize, max_batch_rows: usize) -> Scheduler {
    let settings = SchedulerSettings {
        max_sequences,
        max_batch_rows,
        max_scored_rows: 3,
        prefix_cache: true,
        prompts_apart: true,
        decode_slowdown: 2.5,
    };
    Scheduler::new(settings, BlockPool::new(blocks, BLOCK))
}

fn add(scheduler: &mut Scheduler, id: u64, tenant: &str, prompt: usize) {
    // Each its own content, so that nothing is found in the prefix cache.
    let prompt = (0..prompt as u32)
        .map(|position| position * 1_000 + id as u32)
        .collect();
    let (id, tenant) = (SequenceId(id), tenant.into());
    scheduler.add(NewSequence {
        id,
        prompt,
        adapters: Vec::new(),
        score_from: None,
        tenant,
    });
}

/// Runs one step in which every complete sequence gets another token.
fn step(scheduler: &mut Scheduler) -> Plan {
    let plan = scheduler.plan();
    scheduler.succeeded(&plan);
    for chunk in plan.chunks.iter().filter(|chunk| chunk.complete) {
        scheduler.append(chunk.id, 0);
    }
    plan
}

fn rows(plan: &Plan) -> Vec<(u64, usize)> {
    plan.chunks.iter().map(|chunk| (chunk.id.0, chunk.rows)).collect()
}

#[test]
fn decoding_goes_first_and_prefill_fills_the_rest_in_chunks() {
    let mut scheduler = scheduler(100, 8, 10);
    add(&mut scheduler, 1, "t", 2);
    add(&mut scheduler, 2, "t", 14);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 2), (2, 8)]);
    add(&mut scheduler, 3, "t", 5);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 1), (2, 6), (3, 3)]);
    let plan = step(&mut scheduler);
    assert_eq!(rows(&plan), [(1, 1), (2, 1), (3, 2)]);
    let third = Chunk {
        id: SequenceId(3),
        start: 3,
        rows: 2,
        prompt: true,
        outputs: OutputRows::Last,
        complete: true,
    };
    assert_eq!(plan.chunks[2], third);
}

#[test]
fn rows_without_a_last_token_want_no_logits_and_scored_ones_want_all() {
    let mut scheduler = scheduler(100, 8, 4);
    add(&mut scheduler, 1, "t", 6);
    assert_eq!(step(&mut scheduler).chunks[0].outputs, OutputRows::None);
    assert_eq!(step(&mut scheduler).chunks[0].outputs, OutputRows::Last);
    scheduler.remove(SequenceId(1));
    scheduler.add(scored(2, 5, 0));
    let plan = step(&mut scheduler);
    assert_eq!(
        (plan.chunks[0].outputs, plan.chunks[0].rows),
        (OutputRows::All, 3),
        "at most max_scored_rows"
    );
}

/// A sequence of equal tokens that is scored from some place on.
fn scored(id: u64, prompt: usize, from: usize) -> NewSequence {
    NewSequence {
        id: SequenceId(id),
        prompt: vec![1; prompt],
        adapters: Vec::new(),
        score_from: Some(from),
        tenant: "t".into(),
    }
}

#[test]
fn what_lies_before_the_first_scored_token_wants_no_logits_and_is_found_in_the_cache() {
    let mut scheduler = scheduler(100, 8, 32);
    scheduler.add(scored(1, 12, 10));
    let mut chunks = Vec::new();
    while scheduler.tokens(SequenceId(1)).len() == 12 {
        chunks.extend(step(&mut scheduler).chunks);
    }
    let shape = |chunk: &Chunk| (chunk.start, chunk.rows, chunk.outputs);
    let first: Vec<_> = chunks.iter().map(shape).collect();
    assert_eq!(first, [(0, 9, OutputRows::None), (9, 3, OutputRows::All)]);
    scheduler.remove(SequenceId(1));
    // The row before the first scored token must be computed for its logits, so it is never taken from the cache.
    for (id, from, start) in [(2, 10, 8), (3, 9, 8), (4, 8, 4), (5, 0, 0), (6, 99, 8)] {
        scheduler.add(scored(id, 12, from));
        assert_eq!(step(&mut scheduler).chunks[0].start, start, "from {from}");
        scheduler.remove(SequenceId(id));
    }
}

#[test]
fn no_more_sequences_run_than_may_and_each_decodes_in_every_step() {
    let mut scheduler = scheduler(100, 50, 3);
    for id in 0..5 {
        add(&mut scheduler, id, "t", 1);
    }
    step(&mut scheduler);
    assert_eq!(
        (scheduler.running(), scheduler.waiting()),
        (3, 2),
        "three rows are three sequences"
    );
    assert_eq!(rows(&step(&mut scheduler)), [(0, 1), (1, 1), (2, 1)]);
    scheduler.remove(SequenceId(1));
    assert_eq!(
        rows(&step(&mut scheduler)),
        [(0, 1), (2, 1), (3, 1)],
        "the first that waited follows"
    );
}

#[test]
fn the_last_admitted_is_preempted_and_comes_back_first_with_its_tokens() {
    // Four blocks: two sequences of two blocks each; the first to need a third takes the other's.
    let mut scheduler = scheduler(4, 8, 32);
    add(&mut scheduler, 1, "t", 6);
    step(&mut scheduler);
    add(&mut scheduler, 2, "t", 4);
    add(&mut scheduler, 3, "t", 1);
    for _ in 0..2 {
        step(&mut scheduler);
    }
    assert_eq!((scheduler.running(), scheduler.counters().preemptions), (2, 0));
    let kept = scheduler.tokens(SequenceId(2)).len();
    assert_eq!(rows(&step(&mut scheduler)), [(1, 1)]);
    assert_eq!((scheduler.running(), scheduler.counters().preemptions), (1, 1));
    assert_eq!(scheduler.tokens(SequenceId(2)).len(), kept, "generated tokens are kept");
    scheduler.remove(SequenceId(1));
    let plan = scheduler.plan();
    assert_eq!(plan.chunks[0].id, SequenceId(2), "ahead of the one that never ran");
    assert!(plan.chunks[0].complete && plan.chunks[0].start + plan.chunks[0].rows == kept);
}

#[test]
fn a_tenant_with_many_requests_does_not_hold_up_one_with_few() {
    let mut scheduler = scheduler(1_000, 2, 16);
    for id in 0..100 {
        add(&mut scheduler, id, "many", 8);
    }
    step(&mut scheduler);
    add(&mut scheduler, 1_000, "few", 8);
    scheduler.remove(SequenceId(0));
    let plan = step(&mut scheduler);
    assert_eq!(plan.chunks[1].id, SequenceId(1_000), "next in turn, not next in line");
}

#[test]
fn a_long_prompt_shares_the_batch_with_another_tenants_short_one() {
    let mut scheduler = scheduler(1_000, 8, 16);
    add(&mut scheduler, 1, "long", 1_600);
    step(&mut scheduler);
    add(&mut scheduler, 2, "short", 16);
    // Arriving level with the other, the short one waits for at most one step.
    let first = step(&mut scheduler);
    let second = step(&mut scheduler);
    let served = first
        .chunks
        .iter()
        .chain(&second.chunks)
        .any(|chunk| chunk.id == SequenceId(2) && chunk.complete);
    assert!(served, "{first:?} {second:?}");
}

#[test]
fn tenants_who_always_have_work_are_served_alike() {
    let mut scheduler = scheduler(1_000, 4, 8);
    let mut served = std::collections::BTreeMap::from([("a", 0), ("b", 0), ("c", 0)]);
    let mut tenant_of = std::collections::HashMap::new();
    let mut next = 0;
    for _ in 0..3_000 {
        for (tenant, prompt) in [("a", 3), ("b", 12), ("c", 30)] {
            let unfinished = tenant_of.values().filter(|other| **other == tenant).count();
            for _ in unfinished..4 {
                add(&mut scheduler, next, tenant, prompt);
                tenant_of.insert(SequenceId(next), tenant);
                next += 1;
            }
        }
        for chunk in step(&mut scheduler).chunks {
            *served.get_mut(tenant_of[&chunk.id]).expect("a tenant") += chunk.rows;
            if chunk.complete {
                scheduler.remove(chunk.id);
                tenant_of.remove(&chunk.id);
            }
        }
    }
    let (least, most) = (
        served.values().min().expect("three"),
        served.values().max().expect("three"),
    );
    assert!(most - least < most / 20, "{served:?}");
}

#[test]
fn what_a_failed_step_touched_is_not_reused() {
    let mut scheduler = scheduler(100, 8, 32);
    add(&mut scheduler, 1, "t", 9);
    step(&mut scheduler);
    let plan = scheduler.plan();
    scheduler.failed(&plan);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.pool().available(), 100);
    add(&mut scheduler, 1, "t", 9);
    assert_eq!(
        rows(&step(&mut scheduler)),
        [(1, 9)],
        "the same prompt is computed whole"
    );
}
