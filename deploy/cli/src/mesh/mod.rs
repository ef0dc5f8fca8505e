//! The mesh on this machine: which processes it has, where they listen, how they are started, watched and stopped.
//!
//! Map: `member` (the five processes), `settings` (what was asked for), `layout` (who listens where), `run_dir` (pid
//! files, logs and the state that other commands read), `process` (pids that cannot be mistaken for another process's),
//! `ports` (who holds a port), `jaeger` (its configuration), `launch` (how a member is started), `readiness` (when it
//! may be used), `stop` (how it is stopped), `signals` (what the terminal asks for meanwhile).
//!
//! Rule: what runs is told by pid files alone; a member is never taken for running because a port answers.

pub(crate) mod jaeger;
pub(crate) mod launch;
pub(crate) mod layout;
pub(crate) mod member;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod run_dir;
pub(crate) mod settings;
pub(crate) mod signals;
pub(crate) mod stop;

pub(crate) use launch::Running;
pub(crate) use layout::Layout;
pub(crate) use member::Member;
pub(crate) use process::Identity;
pub(crate) use run_dir::{RunDir, State};
pub(crate) use settings::{Flags, Settings};
