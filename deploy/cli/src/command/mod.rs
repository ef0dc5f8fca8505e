//! One file a command.

pub(crate) mod adapters;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod down;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod model;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod up;

use std::{env, path::PathBuf, process::ExitCode};

use crate::{
    cli::{Cli, Command},
    mesh::{Flags, Layout, Member, RunDir, Settings, run_dir::RUN_DIR},
    ui::Ui,
};

/// Where the mesh of this command line is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its run folder.
    pub(crate) run: RunDir,
    /// Its config folder, where the command line names one.
    pub(crate) config_dir: Option<PathBuf>,
}

/// Runs a command.
///
/// # Errors
/// What the command could not do.
pub(crate) async fn run(ui: &Ui, cli: Cli) -> anyhow::Result<ExitCode> {
    let place = Place { run: RunDir::new(&cli.run_dir), config_dir: cli.config_dir };
    match cli.command {
        Command::Up(args) => up::run(ui, &place, &args).await,
        Command::Down(args) => down::run(ui, &place, &args).await,
        Command::Status(args) => status::run(ui, &place, &args).await,
        Command::Chat(args) => chat::run(ui, &place, args).await,
        Command::Trace(args) => trace::run(ui, &place, &args).await,
        Command::Bench(args) => bench::run(ui, &place, args).await,
        Command::Logs(args) => logs::run(ui, &place, &args).await,
        Command::Key(args) => key::run(ui, &args),
        Command::Model(args) => model::run(ui, &args),
        Command::Adapters(args) => adapters::run(ui, &place, args).await,
    }
}

impl Place {
    /// Who listens where: as the last `weft up` left it, else as the config files say.
    ///
    /// # Errors
    /// Neither can be read.
    pub(crate) fn layout(&self) -> anyhow::Result<Layout> {
        if self.config_dir.is_none()
            && let Some(state) = self.run.state()?
        {
            return Ok(state.layout);
        }
        Layout::read(&Settings::fresh(&Flags { config_dir: self.config_dir.clone(), ..Flags::default() })?)
    }

    /// The address of a service: the one that was typed, else the mesh's, else the documented one. The mesh need not be
    /// on this machine, so neither its state nor its config need be here.
    pub(crate) fn address(&self, typed: Option<&str>, member: Member) -> String {
        let documented = || format!("http://127.0.0.1:{}", member.default_port());
        let of_mesh = || self.layout().ok()?.client_address(member);
        typed.map(str::to_owned).or_else(of_mesh).unwrap_or_else(documented)
    }

    /// A command line of this program for the mesh at this place, as a reader may type it.
    pub(crate) fn command(&self, words: &str) -> String {
        let program = env::args().next().unwrap_or_else(|| "weft".to_owned());
        let run_dir = self.run.path();
        let place = if run_dir.ends_with(RUN_DIR) && run_dir.is_relative() {
            String::new()
        } else {
            format!(" --run-dir {}", run_dir.display())
        };
        format!("{program} {words}{place}")
    }
}
