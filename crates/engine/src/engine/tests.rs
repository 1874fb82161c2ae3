//! The engine thread with a runner that computes nothing.
