//! Which adapters are loaded, and who uses which generation of them.
//!
//! Map: `registry` (load, replace, unload, list), `lease` (a generation and those that use it), `path` (folders below the
//! configured one), `error`, `metrics`, `requests` (vLLM's gauge of which adapters are in use).
//!
//! Rules:
//! - What is loaded is never changed: a replacement is another generation. A request leases one generation and keeps it to
//!   its end, so a stream never sees two. A generation that was replaced or unloaded is freed with its last lease.
//! - Generations are numbered by one counter, so a number names one adapter of this process and nothing else, ever.
//! - Reading happens on a thread of its own, one adapter at a time; the engine learns of an adapter by the first sequence
//!   that carries it.

mod error;
mod lease;
mod metrics;
mod path;
mod registry;
mod requests;
#[cfg(test)]
pub(crate) mod tests;

pub use error::AdapterError;
pub use lease::{Lease, Standing};
pub use registry::Adapters;
