//! AdamW over plain slices: groups ([`Parameter`]), clipping ([`clip`]), moments in f32 or 8 bits, and a state that is saved and
//! restored bit for bit. Where parameters and gradients live is their owner's business.

mod adamw;
mod blockwise;
mod clip;
mod loss_scale;
mod moments;
mod parameter;
mod state;
#[cfg(test)]
mod tests;

pub use adamw::{AdamW, AdamWSettings, Step};
pub use clip::{clip, clip_scale, gradient_norm};
pub use loss_scale::LossScale;
pub use moments::MomentType;
pub use parameter::Parameter;
pub use state::Buffer;
