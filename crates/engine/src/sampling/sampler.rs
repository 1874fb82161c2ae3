//! The sampler of one sequence. Works on a whole vocabulary without sorting it: candidates are gathered above a
//! falling threshold until they are certain to contain what top_k and top_p keep.

use std::collections::BTreeMap;

use rootstock_model::text::TokenId;

use super::{Draws, SamplingParams, softmax};

/// Below this a temperature means the most likely token, as in vLLM.
const GREEDY_BELOW: f32 = 1e-5;
/// First threshold for candidates, relative to the most likely token, and the factor by which it falls.
const THRESHOLD_STEP: f32 = 1e-3;

/// Parameters and the tokens that penalties look at.
pub(crate) struct Sampler {
    params: SamplingParams,
    /// Occurrences among the generated tokens; tokens of the prompt alone have 0. Filled only if a penalty needs it.
    seen: BTreeMap<TokenId, u32>,
    step: u64,
}

/// Buffers shared by all samplers of an engine.
#[derive(Default)]
pub(crate) struct Scratch {
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    id: TokenId,
    logit: f32,
    weight: f32,
}

impl Sampler {
    /// A sampler before its first token.
    pub(crate) fn new(params: SamplingParams, prompt: &[TokenId]) -> Self {
        let mut seen = BTreeMap::new();
        if params.repetition_penalty != 1.0 {
            seen.extend(prompt.iter().map(|&id| (id, 0)));
        }
        Self { params, seen, step: 0 }
    }

    /// Chooses the next token from a row of logits. `None` if no logit is finite.
    pub(crate) fn sample(&mut self, logits: &[f32], scratch: &mut Scratch) -> Option<TokenId> {
        let Scratch {
            adjusted,
            weights,
            candidates,
        } = scratch;
        let logits = if self.adjusts() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(adjusted);
            adjusted.as_slice()
        } else {
            logits
        };
        let (largest, max) = softmax::first_max(logits)?;
        let chosen = if self.params.temperature < GREEDY_BELOW {
            Some(largest as TokenId)
        } else {
            softmax::weights(logits, max, self.params.temperature.recip(), weights);
            let draw = Draws::new(self.params.seed, self.step).next_unit();
            if self.truncates() {
                self.truncate(logits, weights, candidates);
                pick(
                    candidates.iter().map(|candidate| (candidate.id, candidate.weight)),
                    draw,
                )
            } else {
                pick((0..).zip(weights.iter().copied()), draw)
            }
        }?;
        self.accept(chosen);
        Some(chosen)
    }

    fn accept(&mut self, token: TokenId) {
        self.step += 1;
        let params = &self.params;
        let counts =
            params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
        if counts {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    fn adjusts(&self) -> bool {
        !self.params.logit_bias.is_empty() || !self.seen.is_empty()
    }

    fn adjust(&self, logits: &mut [f32]) {
        let params = &self.params;
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for (&id, &count) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            let factor = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
        }
    }

    fn truncates(&self) -> bool {
        self.params.top_k.is_some() || self.params.top_p < 1.0 || self.params.min_p > 0.0
    }

    /// Leaves in `candidates` what min_p, top_k and top_p keep, best first.
    fn truncate(&self, logits: &[f32], weights: &[f32], candidates: &mut Vec<Candidate>) {
        let floor = self.params.min_p.min(1.0);
        let top_k = self.params.top_k.map(|k| k.max(1));
        let top_p = f64::from(self.params.top_p);
        let mass = |candidates: &[Candidate]| candidates.iter().map(|c| f64::from(c.weight)).sum::<f64>();
        // top_p is a share of what min_p and top_k leave. Without top_k that is known before any candidate is.
        let nucleus = match top_k {
            None => {
                top_p
                    * weights
                        .iter()
                        .filter(|&&w| w >= floor)
                        .map(|&w| f64::from(w))
                        .sum::<f64>()
            }
            Some(_) => f64::INFINITY,
        };
        let mut threshold = THRESHOLD_STEP;
        loop {
            gather(logits, weights, threshold.max(floor), candidates);
            let enough = match top_k {
                Some(k) => candidates.len() >= k,
                None => mass(candidates) >= nucleus,
            };
            if enough || threshold <= floor || threshold == 0.0 {
                break;
            }
            threshold *= THRESHOLD_STEP;
        }
        let better = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
        if let Some(k) = top_k.filter(|&k| k < candidates.len()) {
            candidates.select_nth_unstable_by(k, better);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(better);
        if top_p < 1.0 {
            let wanted = if top_k.is_some() {
                top_p * mass(candidates)
            } else {
                nucleus
            };
            keep_mass(candidates, wanted);
        }
    }
}

fn gather(logits: &[f32], weights: &[f32], threshold: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    for ((id, &logit), &weight) in (0..).zip(logits).zip(weights) {
        if weight >= threshold {
            candidates.push(Candidate { id, logit, weight });
        }
    }
}

/// Drops all after the first candidates whose weights reach `wanted`; keeps at least one.
fn keep_mass(candidates: &mut Vec<Candidate>, wanted: f64) {
    let mut mass = 0.0;
    let kept = candidates.iter().position(|candidate| {
        mass += f64::from(candidate.weight);
        mass >= wanted
    });
    if let Some(last) = kept {
        candidates.truncate(last + 1);
    }
}

/// The candidate in whose share of the total weight the draw from [0, 1) falls.
fn pick(candidates: impl Iterator<Item = (TokenId, f32)> + Clone, draw: f64) -> Option<TokenId> {
    let total: f64 = candidates.clone().map(|(_, weight)| f64::from(weight)).sum();
    let target = draw * total;
    let mut mass = 0.0;
    let mut chosen = None;
    for (id, weight) in candidates {
        if weight > 0.0 {
            chosen = Some(id);
            mass += f64::from(weight);
            if mass > target {
                break;
            }
        }
    }
    chosen
}
