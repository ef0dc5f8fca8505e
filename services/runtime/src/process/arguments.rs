//! The command line of a service, and what is said before there is a log.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, Command, value_parser};

use super::EXIT_USAGE;
use crate::config::Problems;

/// What was asked for.
pub(super) struct Arguments {
    /// The file to read.
    pub(super) config: PathBuf,
    /// Whether to check it only.
    pub(super) check: bool,
}

/// Reads the process's arguments, or says why it ends at once (`--help` and `--version` too).
pub(super) fn read(service: &'static str) -> Result<Arguments, ExitCode> {
    let matches = command(service).try_get_matches().map_err(|answer| {
        // Nowhere is left to say that the terminal is gone.
        let _ = answer.print();
        if answer.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    })?;
    let config = matches.get_one::<PathBuf>("config").cloned().unwrap_or_default();
    Ok(Arguments { config, check: matches.get_flag("check") })
}

fn command(service: &'static str) -> Command {
    let name = format!("weft-{service}");
    Command::new(service)
        .bin_name(name.clone())
        .display_name(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("The {service} service of Weft"))
        .after_help("WEFT__SECTION__KEY in the environment overrides section.key of the file.")
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("The configuration, as TOML"),
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Checks the configuration and ends"),
        )
}

/// Says all that is wrong with a configuration.
pub(super) fn refuse(problems: &Problems) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{problems}");
    ExitCode::from(EXIT_USAGE)
}

/// Says that a configuration is usable.
pub(super) fn usable(config: &Path) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{} is usable", config.display());
    ExitCode::SUCCESS
}
