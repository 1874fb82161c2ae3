//! Results as people read them: numbers in words, tables for terminals, pages of one HTML file with inline SVG that need nothing
//! beside themselves and run nothing. Knows nothing of what was measured; all text that it is given is escaped.

mod axis;
mod escape;
pub mod page;
mod plot;
pub mod quantity;
mod scale;
pub mod table;

pub use escape::{Escaped, escape};
pub use plot::{LinePlot, Mark, Series};
pub use scale::Scale;
