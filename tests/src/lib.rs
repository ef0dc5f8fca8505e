//! The whole mesh in one process: the four real services, joined by in-memory pipes that a test can cut.
//!
//! Map: `mesh` (starts, kills and revives services), `caller` (a client as a user would write it), `brain` (what
//! inference runs: a script or a real model), `golden` (what transformers said).
//!
//! Rules: nothing here is a double but the model, and that only where a test says so; waiting is for a condition,
//! never for a time.

pub mod brain;
pub mod caller;
pub mod golden;
pub mod mesh;

pub use brain::Brain;
pub use caller::{Answer, Caller};
pub use mesh::{Mesh, Room};
