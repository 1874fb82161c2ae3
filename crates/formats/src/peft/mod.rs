//! PEFT
