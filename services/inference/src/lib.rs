//! Token ids in, token ids out. Knows tensors, batches and caches; of text it knows the bytes of a token, in
//! `constraint` alone.
//!
//! Map:
//! - `grpc`: the wire; the only file that names generated types
//! - `request`: what a caller asks, checked against the model and the limits; `resumption`: what it has said elsewhere
//! - `engine`: the thread that owns the model: inbox → schedule → forward → sample → outbox
//! - `scheduler`: who runs in the next step; `sequence`: what it knows of a request; `speculation`: guesses of what follows
//! - `kv_cache`: blocks of the cache, who holds them
//! - `constraint`: what an output must look like, and which tokens keep it so
//! - `adapters`: which are loaded, and who uses which generation
//! - `sampler`: from logits to a token; `stop`: when a generation ends
//! - `model`: the trait, the scripted double, libtorch; `kernels`: the only `unsafe` room
//! - `start`: from configuration to a warm engine; `config`, `error`, `metrics`
//!
//! Rules: scheduler, cache and sampler are synchronous, take clock and seed from outside, and know no channel; what
//! the engine's thread owns nobody else sees; a block is free once the last sequence that holds it has left, and only
//! full blocks, which nobody writes again, have several holders; whatever else is in the batch, and whatever was found
//! in the cache, changes nothing for a sequence; nothing a caller sends can panic.

pub mod adapters;
pub mod config;
pub mod constraint;
pub mod engine;
pub mod error;
pub mod kv_cache;
pub mod metrics;
pub mod model;
pub mod request;
pub mod resumption;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod speculation;
pub mod stop;

mod grpc;
#[cfg(feature = "torch")]
mod kernels;
mod start;

pub use config::Config;
pub use error::{EngineError, StartError};
#[cfg(feature = "torch")]
pub use kernels::roofline;
pub use start::{Running, run, start, start_stepped, start_with};
