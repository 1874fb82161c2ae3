//! What is wrong with a data set, before a run is spent on it: rows that cannot be used, twins of rows, evaluation on what was
//! trained on, and what the loss mask shows. [`Survey`] collects the rows, [`Report`] is what it finds.

mod balance;
mod lengths;
mod report;
mod survey;
#[cfg(test)]
mod tests;
mod twins;

pub use balance::Label;
pub use lengths::{Bucket, Lengths};
pub use report::{Fault, Finding, Report, Severity};
pub use survey::{Checked, Survey};
