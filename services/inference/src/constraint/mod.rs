//! What an output must look like, and which tokens keep it so.
//!
//! Map: `form` (what a caller may ask for, checked), `vocabulary` (the bytes of every token: the one place of this
//! service that reads `tokenizer.json`), `grammar` (a form, compiled by llguidance), `compiler` (the async door: cache,
//! limits, time), `guide` (how far one sequence is: its next mask, and the token that was chosen), `workers` (threads
//! for what must run neither on the reactor nor on the engine's thread), `metrics`.
//!
//! Rules:
//! - A mask is computed by a worker from the moment its sequence's last token is known: while the model computes the next
//!   logits. The engine waits only for what is left of it then.
//! - A grammar's state belongs to its sequence, not to the cache of keys and values: preemption does not touch it.
//! - What a grammar costs is bounded everywhere: bytes of its text, fuel of its compilation and of each mask, states of its
//!   lexer, the number that is kept, the number that is compiled at once.
//! - A grammar that cannot go on is an error of its sequence alone, and never an output that breaks it.

mod compiler;
mod form;
mod grammar;
mod guide;
mod metrics;
#[cfg(test)]
mod tests;
mod vocabulary;
mod workers;

pub use compiler::{Compiler, Source};
pub use form::Form;
pub use grammar::{CompileError, Grammar};
pub use guide::GuideError;
pub(crate) use guide::{Guide, Progress};
pub use metrics::ConstraintMetrics;
