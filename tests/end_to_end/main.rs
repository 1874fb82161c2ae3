//! End-to-end tests: the real binary and the real model, over HTTP and as commands. One module per workflow, one link step.
//! The model is found as `server::model` says; a test that misses something it needs fails with the reason.
