//! `weft adapters`: which LoRA adapters inference has loaded, and changes of it while streams run.

use std::{process::ExitCode, time::Duration};

use tonic::transport::Channel;

use super::Place;
use crate::{
    grpc::{
        Call,
        adapters::{self, Adapter},
        connect,
    },
    mesh::Member,
    ui::Ui,
    units,
};

/// How long inference may take: reading a large adapter from a slow disk is the longest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `weft adapters`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The address of inference [default: that of the mesh]
    #[arg(long, global = true, value_name = "URL")]
    inference: Option<String>,
    #[command(subcommand)]
    work: Option<Work>,
}

/// What can be done with adapters. Nothing said: list them.
#[derive(Debug, clap::Subcommand)]
enum Work {
    /// Those that are loaded
    List {
        /// As JSON, on standard output
        #[arg(long)]
        json: bool,
    },
    /// Load one, or replace it: streams that run go on with the former one
    Load {
        /// The name that requests use
        id: String,
        /// Its folder below `[adapters] folder` of inference, in PEFT's format [default: its name]
        path: Option<String>,
        /// Replace only this generation; 0: load only where none has this name
        #[arg(long, value_name = "NUMBER")]
        expected_generation: Option<u64>,
    },
    /// Take one away; streams that run finish with it
    Unload {
        /// The name that requests use
        id: String,
        /// Only if it is this generation
        #[arg(long, value_name = "NUMBER")]
        expected_generation: Option<u64>,
    },
}

/// Runs `weft adapters`.
///
/// # Errors
/// Inference cannot be reached, or refuses.
pub(crate) async fn run(ui: &Ui, place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let address = place.address(args.inference.as_deref(), Member::Inference);
    let (channel, call) = (connect::channel(&address, None)?, Call::within(PATIENCE));
    match args.work.unwrap_or(Work::List { json: false }) {
        Work::List { json } => list(ui, channel, call, json).await?,
        Work::Load { id, path, expected_generation } => {
            let path = path.unwrap_or_else(|| id.clone());
            let loaded = adapters::load(channel, (id, path, expected_generation), call).await?;
            ui.line(loaded.iter().map(describe).collect::<String>())?;
        }
        Work::Unload { id, expected_generation } => {
            adapters::unload(channel, (id, expected_generation), call).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(ui: &Ui, channel: Channel, call: Call, json: bool) -> anyhow::Result<()> {
    let loaded = adapters::list(channel, call).await?;
    if json {
        ui.line(serde_json::to_string_pretty(&loaded)?)?;
    } else if loaded.is_empty() {
        ui.note("no adapter is loaded");
    } else {
        ui.line(loaded.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(())
}

fn describe(adapter: &Adapter) -> String {
    format!(
        "{}  generation {}  rank {}  {}  {}  {} streams",
        adapter.id,
        adapter.generation,
        adapter.rank,
        adapter.targets.join(","),
        units::bytes(adapter.bytes),
        adapter.streams,
    )
}
