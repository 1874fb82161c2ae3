//! Rows held out of training, and which completions are labels. Labels are held out in proportion, so that a rare one is evaluated
//! too.

use std::collections::BTreeMap;

use super::Example;
use crate::random::Random;

/// Distinct completions up to which they count as labels.
const MOST_LABELS: usize = 64;

/// Indices of examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To train on, in their order.
    pub train: Vec<usize>,
    /// Held out, in their order.
    pub held_out: Vec<usize>,
}

/// Holds out about `share` of the examples: of each label, if the completions are labels. The same seed gives the same split. As
/// long as there are two examples, neither side is empty unless `share` is 0.
pub fn hold_out(examples: &[Example], share: f64, seed: u64) -> Split {
    let mut random = Random::new(seed, "hold out");
    let mut held_out = Vec::new();
    for mut group in groups(examples) {
        random.shuffle(&mut group);
        let count = (group.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
        held_out.extend_from_slice(&group[..count]);
    }
    if held_out.is_empty() && share > 0.0 && examples.len() > 1 {
        held_out.push(random.below(examples.len()));
    }
    if held_out.len() == examples.len() && share < 1.0 {
        held_out.pop();
    }
    held_out.sort_unstable();
    let train = (0..examples.len()).filter(|index| held_out.binary_search(index).is_err());
    Split {
        train: train.collect(),
        held_out,
    }
}

/// The completions that examples choose between, each as its first example writes it, in order; `None` where completions are
/// answers of their own rather than two or more labels. White space around a label is not part of it.
pub fn labels(examples: &[Example]) -> Option<Vec<String>> {
    let groups = by_label(examples.iter()).filter(|groups| groups.len() > 1)?;
    let first = groups
        .into_values()
        .filter_map(|group| completion(&examples[*group.first()?]));
    Some(first.map(str::to_owned).collect())
}

/// Examples by label; all of them together where completions are no labels.
fn groups(examples: &[Example]) -> Vec<Vec<usize>> {
    match by_label(examples.iter()) {
        Some(groups) => groups.into_values().collect(),
        None => vec![(0..examples.len()).collect()],
    }
}

/// Indices of examples by completion, if completions are labels: few for many examples.
pub(super) fn by_label<'a>(examples: impl Iterator<Item = &'a Example>) -> Option<BTreeMap<&'a str, Vec<usize>>> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut count = 0;
    for (index, example) in examples.enumerate() {
        groups.entry(completion(example)?.trim()).or_default().push(index);
        count += 1;
    }
    // Where most completions are their own, they are answers, not labels.
    let are_labels = groups.len() <= MOST_LABELS && groups.len() * 2 <= count;
    are_labels.then_some(groups)
}

fn completion(example: &Example) -> Option<&str> {
    match example {
        Example::Completion { completion, .. } => Some(completion),
        Example::Conversation(_) | Example::Text(_) => None,
    }
}
