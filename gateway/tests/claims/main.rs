//! What the gateway promises, tried on the real gateway with scripted services behind it, all in one process over
//! in-memory pipes. Clocks are paused: what these tests wait for are conditions, never time.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test, and says where")]

mod doubles;
mod exchange;
mod front;

mod access;
mod admission;
mod chat;
mod embed;
mod faults;
mod http;
mod kserve;
mod latency;
mod overload;
mod quota;
mod readiness;
mod replicas;
mod screening;
mod streams;
mod telemetry;
mod validation;
