//! Which tokens end a generation, whatever a file says.

/// Control tokens that end a text or a turn.
const SPELLINGS: [&str; 10] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

/// Whether a control token spelled so ends a text or a turn.
pub(super) fn ends_turn(token: &str) -> bool {
    SPELLINGS.contains(&token)
}
