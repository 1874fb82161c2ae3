//! Which group a parameter is in: whether it decays, and at which multiple of the schedule's rate it learns.

/// A trainable tensor as the optimizer sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name, which its state is saved under.
    pub name: String,
    /// Number of its values.
    pub elements: usize,
    /// Whether weight decay applies.
    pub decays: bool,
    /// What the schedule's learning rate is multiplied with for it.
    pub rate_ratio: f64,
}

impl Parameter {
    /// A tensor of `shape`. Biases, normalisations and whatever else has one dimension do not decay: to pull them to zero
    /// regularises nothing.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        let name = name.into();
        Self {
            elements: shape.iter().product(),
            decays: shape.len() > 1 && !is_bias_or_norm(&name),
            rate_ratio: 1.0,
            name,
        }
    }

    /// LoRA+ (Hayou et al. 2024, arXiv 2402.12354): the B of a pair learns `ratio` times as fast as its A. Others stay.
    pub fn with_lora_plus(mut self, ratio: f64) -> Self {
        let is_b = |part: &str| part == "lora_B" || part == "lora_embedding_B";
        if self.name.split('.').any(is_b) {
            self.rate_ratio = ratio;
        }
        self
    }
}

fn is_bias_or_norm(name: &str) -> bool {
    name.split('.').any(|part| {
        let part = part.to_ascii_lowercase();
        part.ends_with("bias") || part.ends_with("norm") || part.starts_with("ln_")
    })
}
