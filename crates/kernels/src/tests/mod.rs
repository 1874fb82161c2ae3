//! Every kernel against a plain reference, on every instruction set of the machine, and bit for bit between
//! instruction sets, thread counts and batches.

mod attention;
mod deltas;
mod faults;
mod formats;
mod linear;
mod nf4;
mod pinned;
mod then;
mod vector;
