//! How a member is started: detached, its output in its log, its pid on record.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::{Child, Command};

use super::{Identity, Layout, Member, RunDir, Settings, jaeger};
use crate::failure::Failure;

/// The variable by which a service is told where spans go.
const OTLP_KEY: &str = "WEFT__TELEMETRY__OTLP_ENDPOINT";

/// How often a process that is not our child is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is run for a member.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    member: Member,
    path: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    working_dir: PathBuf,
}

/// A member that was started, now or by an earlier command.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which.
    pub(crate) member: Member,
    /// Its process.
    pub(crate) identity: Identity,
    child: Option<Child>,
}

impl Program {
    /// The program of a member.
    ///
    /// # Errors
    /// Its executable is not there.
    pub(crate) fn of(
        member: Member,
        settings: &Settings,
        layout: &Layout,
        run: &RunDir,
    ) -> anyhow::Result<Self> {
        match layout.jaeger {
            Some(ports) if member == Member::Jaeger => Self::jaeger(settings, ports, run),
            _ => Self::service(member, settings, layout),
        }
    }

    fn service(member: Member, settings: &Settings, layout: &Layout) -> anyhow::Result<Self> {
        let here = env::current_exe().context("the folder of this program is not known")?;
        let path = here.with_file_name(member.binary());
        if !path.is_file() {
            let what =
                format!("{} is not beside this program: {} is missing", member.binary(), path.display());
            return Err(Failure::new(what).next("build all services: `make build`").into());
        }
        let mut env = layout.environment(member, settings.port_offset);
        // Spans go to the mesh's own Jaeger, or nowhere: a config that names a collector which is not there would only
        // fill the logs. Who has another collector says so in the environment or by `--set`.
        if env::var_os(OTLP_KEY).is_none() {
            let endpoint = layout.jaeger.as_ref().map(jaeger::Ports::otlp_endpoint);
            env.insert(OTLP_KEY.to_owned(), endpoint.unwrap_or_default());
        }
        env.extend(settings.overrides.get(&member).cloned().unwrap_or_default());
        let config = settings.config_dir.join(member.name()).with_extension("toml");
        let args = vec!["--config".to_owned(), config.to_string_lossy().into_owned()];
        Ok(Self { member, path, args, env, working_dir: settings.working_dir.clone() })
    }

    fn jaeger(settings: &Settings, ports: jaeger::Ports, run: &RunDir) -> anyhow::Result<Self> {
        let config = std::path::absolute(run.jaeger_config()).context("the run folder is not known")?;
        fs::write(&config, ports.config())
            .with_context(|| format!("{} cannot be written", config.display()))?;
        Ok(Self {
            member: Member::Jaeger,
            path: settings.working_dir.join(jaeger::BINARY),
            args: vec!["--config".to_owned(), config.to_string_lossy().into_owned()],
            env: BTreeMap::from([
                ("GOMEMLIMIT".to_owned(), jaeger::MEMORY_LIMIT.to_owned()),
                // It would trace its own queries, into itself or into nothing: then it ends only after half a minute.
                ("OTEL_TRACES_SAMPLER".to_owned(), "always_off".to_owned()),
            ]),
            working_dir: settings.working_dir.clone(),
        })
    }

    /// Lets a service look at its configuration without starting it, and gives what it finds wrong: one line each.
    ///
    /// # Errors
    /// The executable cannot be run.
    pub(crate) async fn config_problems(&self) -> anyhow::Result<Vec<String>> {
        if self.member == Member::Jaeger {
            return Ok(Vec::new());
        }
        let mut check = self.command();
        let output = check.arg("--check").output().await;
        let output = output.with_context(|| format!("{} cannot be run", self.path.display()))?;
        let text = if output.status.success() { "".into() } else { String::from_utf8_lossy(&output.stderr) };
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).envs(&self.env).current_dir(&self.working_dir).stdin(Stdio::null());
        command
    }

    /// Starts it in a process group of its own: Ctrl-C in this terminal does not reach it, and it outlives this
    /// program.
    ///
    /// # Errors
    /// The executable cannot be run, or the run folder cannot be written.
    pub(crate) fn start(&self, run: &RunDir) -> anyhow::Result<Running> {
        let member = self.member;
        let log = run.rotate_log(member).with_context(|| format!("the log of {member} cannot be made"))?;
        let child = self
            .command()
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be run", self.path.display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the new process has no pid")?;
        // A child that has ended already has no start time any more; `exited` will tell how it ended.
        let identity = Identity::of(pid).unwrap_or(Identity { pid, started: 0 });
        run.record(member, identity)
            .with_context(|| format!("the pid of {member} cannot be written down"))?;
        Ok(Running { member, identity, child: Some(child) })
    }
}

impl Running {
    /// A member that an earlier command started.
    pub(crate) fn adopted(member: Member, identity: Identity) -> Self {
        Self { member, identity, child: None }
    }

    /// Whether this command started it.
    pub(crate) fn is_new(&self) -> bool {
        self.child.is_some()
    }

    /// Resolves when the process has ended, and says how.
    pub(crate) async fn exited(&mut self) -> String {
        if let Some(child) = &mut self.child {
            return child.wait().await.map_or_else(|error| error.to_string(), describe);
        }
        while self.identity.is_running() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        "ended".to_owned()
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal).map(nix::sys::signal::Signal::as_str);
            format!("was ended by {}", name.unwrap_or("an unknown signal"))
        }
        (None, None) => "ended".to_owned(),
    }
}
