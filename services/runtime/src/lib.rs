//! What every Weft process does the same way. No domain word lives here: no token, no prompt, no model.
//!
//! Map:
//! - a process: `process` (config → telemetry → bind → start → serve → drain → flush), `config` (every problem at once),
//!   `health` (conditions), `drain` (phases), `failure` (a reason to end), `task` (owners), `admin` (`/metrics`, `/livez`, `/readyz`), `metrics`,
//!   `telemetry` (logs and traces).
//! - calls in: `server` (what is served, within which limits), `layer` (what every call passes), `tls`, `flow` (windows).
//! - calls out: `client` (a connection that heals itself, replicas, breakers).
//! - both: `deadline`, `status` (errors that name field, value and rule), `body` (how a response really ended).
//! - tests: `pipe` (connections in memory), `telemetry::test` (spans in memory), `Process` (a life without sockets).
//!
//! Rules: nothing here decides by message text; a future belongs to a named task; a number that bounds something
//! comes from config or stands beside its reason; what is lost (a span, a call, a handshake) is counted.

pub mod admin;
pub mod body;
pub mod client;
pub mod config;
pub mod deadline;
pub mod drain;
pub mod failure;
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
pub use failure::Failure;
pub use process::{BoxError, Context, Process, RuntimeConfig, main};
pub use server::Services;
pub use task::Tasks;
