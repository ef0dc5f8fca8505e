//! What every Weft process does the same way. No domain word lives here: no token, no prompt, no model.
//!
//! Map: `process` (config → telemetry → bind → start → serve → drain → flush), `config` (every problem at once),
//! `server` (what is served and how), `client` (how a peer is called), `deadline`, `drain`, `health`, `status`
//! (errors that name field, value and rule), `body` (how a response really ended), `telemetry`, `tls`, `task`,
//! `pipe` (in-memory connections, for tests).
//!
//! Rules: nothing here decides by message text; a future belongs to a named task; a number that bounds something
//! comes from config and is visible in metrics.

pub mod admin;
pub mod body;
pub mod client;
pub mod config;
pub mod deadline;
pub mod drain;
mod flow;
pub mod health;
pub mod layer;
pub mod metrics;
pub mod pipe;
pub mod process;
pub mod server;
pub mod status;
pub mod task;
pub mod telemetry;
pub mod tls;

pub use deadline::Deadline;
pub use process::{BoxError, Context, Process, RuntimeConfig, main};
pub use server::Services;
pub use task::Tasks;
