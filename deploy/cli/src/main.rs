//! `weft`: the mesh on one machine, and the tools to talk to it, to watch it and to measure it.
//!
//! Map: `cli` (what can be typed), `command` (one file a command), `mesh` (the processes), `grpc` (the door to the services;
//! the only room that names wire types), `answer` (a text as it comes, measured), `waterfall` (a trace as a picture),
//! `bench` (load and what it measures), `http`, `metrics`, `log_file` (small readers), `ui` (the terminal), `failure` (errors
//! with advice).
//!
//! Rules: results go to standard output, everything about the way there to standard error; an error says what to do
//! next; one thread does everything, so that on a small machine the cores are left to the services.

mod answer;
mod bench;
mod cli;
mod command;
mod failure;
mod grpc;
mod http;
mod log_file;
mod mesh;
mod metrics;
mod trace_context;
mod ui;
mod units;
mod waterfall;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::Cli;
use ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::detect(cli.color);
    run(&ui, cli).unwrap_or_else(|error| failure::report(&ui, &error))
}

fn run(ui: &Ui, cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the asynchronous runtime cannot be started")?.block_on(command::run(ui, cli))
}
