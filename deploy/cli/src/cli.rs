//! What can be typed.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::{
    command::{adapters, bench, chat, down, key, logs, model, status, trace, up},
    mesh::run_dir::RUN_DIR,
    ui::Colour,
};

/// The heading of options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// Weft on one machine: start it, talk to it, watch it, measure it
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where pid files, logs and the state of the mesh are
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FOLDER", default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Where gateway.toml, tokenizer.toml, inference.toml and safety.toml are [default: deploy/config]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FOLDER")]
    pub(crate) config_dir: Option<PathBuf>,
    /// When to use colours
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t)]
    pub(crate) color: Colour,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `weft` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start what is not running, wait until it is ready, and prove it with a real answer
    ///
    /// Starts the gateway, the tokenizer, inference and the safety filter from the executables beside this one, and
    /// Jaeger if it was built. They outlive this command. Where some already run, only the others are started, with
    /// the settings of those that run.
    Up(up::Args),
    /// Stop the mesh: the gateway first, then the services behind it, then Jaeger
    ///
    /// Exit code: 0 if all ended by themselves (or none was running), 1 if one had to be killed.
    Down(down::Args),
    /// Health, versions, model, queue and KV use
    ///
    /// Exit code: 0 if all services are serving, 1 if some are not, 3 if none is running.
    Status(status::Args),
    /// Talk to the model; the answer streams, with its speed
    ///
    /// Without -p and on a terminal: a conversation. Ctrl-C cancels the answer that is coming, Ctrl-D leaves. Nothing
    /// that is said is written to disk.
    Chat(chat::Args),
    /// Show a trace from Jaeger as a waterfall: who called whom, and where the time went
    Trace(trace::Args),
    /// Put load on the mesh and measure it
    ///
    /// Closed loop: --concurrency requests are kept in flight. Open loop: --rate requests a second arrive at random
    /// (Poisson), and time counts from the moment at which a request should have been sent, so that a slow server
    /// cannot hide its queue. Prompts and arrivals are the same for the same --seed.
    Bench(bench::Args),
    /// Show the logs, merged by time
    Logs(logs::Args),
    /// Work on API keys of the gateway: make one
    Key(key::Args),
    /// Work on model folders: make one in fewer bits
    Model(model::Args),
    /// List, load, replace and unload LoRA adapters while the model runs
    Adapters(adapters::Args),
}

/// Reads a duration such as `30s`, `1m30s` or `250ms`; a plain number is seconds.
///
/// # Errors
/// In words for the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| "must not be negative".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| "must be a duration such as 30s, 1m30s or 250ms".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_mesh_may_stand_behind_the_command() {
        let cli = parse("weft status --run-dir /x --json").unwrap();
        assert_eq!(cli.run_dir, PathBuf::from("/x"));
        assert!(matches!(cli.command, Command::Status(status::Args { json: true, .. })));
    }

    #[test]
    fn an_open_loop_has_no_concurrency() {
        let error = parse("weft bench --rate 5 --concurrency 3").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        assert!(parse("weft bench --rate 5 --duration 10s").is_ok());
        assert!(parse("weft bench --rate 0").is_err());
        assert!(parse("weft bench --concurrency 0").is_err());
    }

    #[test]
    fn adapters_are_listed_unless_something_else_is_said() {
        assert!(parse("weft adapters").is_ok());
        assert!(parse("weft adapters load legal legal-v2 --expected-generation 3").is_ok());
        assert!(parse("weft adapters unload").is_err());
    }

    #[test]
    fn durations_are_read_in_words_and_as_seconds() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.25"), Ok(Duration::from_millis(250)));
        assert!(duration("soon").is_err() && duration("-1").is_err());
    }
}
