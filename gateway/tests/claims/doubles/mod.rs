//! Services that say what a test tells them to.

pub(crate) mod inference;
pub(crate) mod safety;
pub(crate) mod tokenizer;
