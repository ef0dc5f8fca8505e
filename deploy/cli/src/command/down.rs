//! `weft down`: stop the mesh.

use std::{cell::RefCell, process::ExitCode, time::Duration};

use super::Place;
use crate::{
    cli::duration,
    failure::FAILED,
    mesh::{Running, stop::Stopping},
    ui::{Progress, Ui},
};

/// How long a service may take to finish its work: longer than the drain that the services' configs allow, so that they end
/// by themselves.
pub(crate) const DEFAULT_LIMIT: Duration = Duration::from_secs(45);

/// Options of `weft down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long a service may take to finish its work before it is killed
    #[arg(long, value_parser = duration, default_value = "45s")]
    timeout: Duration,
}

/// Runs `weft down`.
///
/// # Errors
/// Another command is at work in the run folder.
pub(crate) async fn run(ui: &Ui, place: &Place, args: &Args) -> anyhow::Result<ExitCode> {
    let _lock = place.run.lock()?;
    let members: Vec<Running> = place
        .run
        .all_running()
        .into_iter()
        .map(|(member, identity)| Running::adopted(member, identity))
        .collect();
    if members.is_empty() {
        ui.note(format_args!("nothing is running ({})", place.run.path().display()));
        return Ok(ExitCode::SUCCESS);
    }
    // Without the state nobody can be asked how much it still does; it can be stopped all the same.
    let state = place.run.state().ok().flatten();
    let layout = state.as_ref().map(|state| &state.layout);
    let progress = RefCell::new(Progress::new(ui));
    let stopping = Stopping { run: &place.run, layout, progress: &progress, limit: args.timeout };
    let killed = stopping.stop(members).await;
    if killed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    ui.note("requests that were killed with it were answered UNAVAILABLE or cut");
    Ok(ExitCode::from(FAILED))
}
