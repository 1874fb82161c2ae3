//! Every kernel against a plain reference, on every instruction set of the machine, and bit for bit between
//! instruction sets, thread counts and batches.

mod attention;
mod faults;
mod linear;
mod pinned;
mod vector;
