//! What a model is trained on: token ids with a loss mask. [`super::Encoder`] makes them, the trainer takes lists of them.

use rootstock_model::text::TokenId;

/// One sequence and what of it is learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The tokens.
    pub ids: Vec<TokenId>,
    /// As long as `ids`: whether the loss counts the prediction of `ids[i]` from what is before it. Never true of the first,
    /// which nothing is before.
    pub learned: Vec<bool>,
}

impl Sample {
    /// A sample. Marks beyond the ids are dropped, missing ones are false, and the first token is never learned.
    pub fn new(ids: Vec<TokenId>, mut learned: Vec<bool>) -> Self {
        learned.resize(ids.len(), false);
        if let Some(first) = learned.first_mut() {
            *first = false;
        }
        Self { ids, learned }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Tokens that the loss counts.
    pub fn learned_tokens(&self) -> usize {
        self.learned.iter().filter(|&&learned| learned).count()
    }

    /// Ids of the tokens that the loss counts.
    pub fn learned_ids(&self) -> Vec<TokenId> {
        let pairs = self.ids.iter().zip(&self.learned);
        pairs.filter_map(|(&id, &learned)| learned.then_some(id)).collect()
    }
}
