//! The pool against a model of it: what each block must contain, and who holds it.

use std::collections::HashMap;
use std::sync::Arc;

use rootstock_model::ContentHash;
use rootstock_model::text::TokenId;

use super::{BlockPool, BlockTable, PrefixKey};
use crate::runner::{AppliedAdapter, BlockId, PreparedAdapter};
use crate::sampling::Draws;

struct Weights(u8);

impl PreparedAdapter for Weights {
    fn bytes(&self) -> usize {
        0
    }
    fn content_hash(&self) -> ContentHash {
        ContentHash([self.0; 32])
    }
}

fn applied(content: u8, scale: f32) -> AppliedAdapter {
    AppliedAdapter {
        weights: Arc::new(Weights(content)),
        scale,
    }
}

/// A sequence of the test: what it holds, and how much of it is computed.
struct Holder {
    root: u8,
    tokens: Vec<TokenId>,
    prompt: usize,
    computed: usize,
    table: BlockTable,
}

/// What was written into a block: the adapter, all tokens up to its end, and how many of those are of the prompt.
type Content = (u8, Vec<TokenId>, usize);

const BLOCK: usize = 4;

fn root(adapter: u8) -> PrefixKey {
    PrefixKey::root(&[applied(adapter, 1.0)])
}

fn below(draws: &mut Draws, bound: usize) -> usize {
    (draws.next_u64() % bound as u64) as usize
}

fn admit(pool: &BlockPool, draws: &mut Draws, contents: &HashMap<BlockId, Content>) -> Option<Holder> {
    let adapter = below(draws, 2) as u8;
    let tokens: Vec<TokenId> = (0..1 + below(draws, 24)).map(|_| below(draws, 2) as TokenId).collect();
    // What follows the prompt was generated before a preemption.
    let prompt = 1 + below(draws, tokens.len());
    let mut table = pool.matching(root(adapter), &tokens, prompt);
    let computed = table.capacity();
    assert!(computed < tokens.len(), "the last token is always computed");
    for (index, id) in table.blocks().iter().enumerate() {
        let end = (index + 1) * BLOCK;
        let expected = (adapter, tokens[..end].to_vec(), prompt.min(end));
        assert_eq!(
            contents.get(id),
            Some(&expected),
            "a shared block holds what its key says"
        );
    }
    table.reserve(tokens.len()).then_some(Holder {
        root: adapter,
        tokens,
        prompt,
        computed,
        table,
    })
}

/// Writes KV for some more tokens, as a step would, and publishes unless the step failed.
fn advance(holder: &mut Holder, draws: &mut Draws, contents: &mut HashMap<BlockId, Content>) {
    if holder.computed == holder.tokens.len() {
        let token = below(draws, 2) as TokenId;
        if !holder.table.reserve(holder.tokens.len() + 1) {
            return;
        }
        holder.tokens.push(token);
    }
    let end = holder.computed + 1 + below(draws, holder.tokens.len() - holder.computed);
    for position in holder.computed..end {
        let block = holder.table.blocks()[position / BLOCK];
        contents.insert(
            block,
            (
                holder.root,
                holder.tokens[..=position].to_vec(),
                holder.prompt.min(position + 1),
            ),
        );
    }
    holder.computed = end;
    if below(draws, 50) == 0 {
        holder.table.forget();
    } else {
        holder.table.publish(&holder.tokens[..end], holder.prompt);
    }
}

#[test]
fn no_round_of_a_hundred_thousand_leaks_or_mixes_a_block() {
    let pool = BlockPool::new(24, BLOCK);
    let mut draws = Draws::new(7, 0);
    let mut contents = HashMap::new();
    let mut live: Vec<Holder> = Vec::new();
    let mut shared_rounds = 0;
    for _ in 0..100_000 {
        match below(&mut draws, 5) {
            0 | 1 if live.len() < 8 => live.extend(admit(&pool, &mut draws, &contents)),
            2 if !live.is_empty() => {
                let index = below(&mut draws, live.len());
                live.swap_remove(index);
            }
            _ if !live.is_empty() => {
                let index = below(&mut draws, live.len());
                advance(&mut live[index], &mut draws, &mut contents);
            }
            _ => {}
        }
        let mut holders = HashMap::new();
        for id in live.iter().flat_map(|holder| holder.table.blocks()) {
            *holders.entry(*id).or_insert(0) += 1;
        }
        shared_rounds += usize::from(holders.values().any(|&count| count > 1));
        pool.check(&holders);
    }
    assert!(shared_rounds > 1_000, "the rounds exercised sharing: {shared_rounds}");
    live.clear();
    pool.check(&HashMap::new());
    assert_eq!(pool.available(), pool.total());
}

#[test]
fn adapter_content_scale_and_order_all_enter_the_key() {
    let keys = [
        PrefixKey::root(&[]),
        PrefixKey::root(&[applied(1, 1.0)]),
        PrefixKey::root(&[applied(2, 1.0)]),
        PrefixKey::root(&[applied(1, 0.5)]),
        PrefixKey::root(&[applied(1, 1.0), applied(2, 1.0)]),
        PrefixKey::root(&[applied(2, 1.0), applied(1, 1.0)]),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "key {index} is its own");
    }
    assert_eq!(keys[1], PrefixKey::root(&[applied(1, 1.0)]));
}

#[test]
fn the_least_recently_used_prefix_makes_room() {
    let pool = BlockPool::new(3, BLOCK);
    let prompts: Vec<Vec<TokenId>> = (0..3).map(|prompt| vec![prompt; BLOCK + 1]).collect();
    for prompt in &prompts {
        let mut table = pool.table(root(0));
        assert!(table.reserve(BLOCK));
        table.publish(&prompt[..BLOCK], BLOCK);
    }
    assert_eq!(pool.idle(), 3);
    drop(pool.matching(root(0), &prompts[0], BLOCK + 1));
    let mut table = pool.table(root(0));
    assert!(table.reserve(BLOCK));
    let found: Vec<usize> = prompts
        .iter()
        .map(|prompt| pool.matching(root(0), prompt, prompt.len()).capacity())
        .collect();
    assert_eq!(found, [BLOCK, 0, BLOCK]);
    assert!(!table.reserve(4 * BLOCK), "three blocks are all there is");
    assert_eq!(table.blocks().len(), 1, "a refused reservation takes nothing");
}
