//! The facts of the stack that the runtime is built around, each with a test that fails without what we do about it.
//!
//! Facts 3 and 4 are tested where the body is (`src/body/tests.rs`).

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail a test, as tests may")]

mod balance;
mod calls;
mod deadlines;
mod drain;
mod health;
mod peers;
mod process;
mod support;
mod tls;
mod traces;
