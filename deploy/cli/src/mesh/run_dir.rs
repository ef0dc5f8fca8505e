//! The run folder: pid files, logs, and what the mesh was started with. Other commands know the mesh by it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Identity, Layout, Member, Settings};
use crate::failure::Failure;

/// Where the run folder is, from the folder that holds `deploy/`.
pub(crate) const RUN_DIR: &str = ".weft/run";

/// What `weft up` leaves for other commands, as `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The version of `weft` that started the mesh.
    pub(crate) version: String,
    /// What it was asked for.
    pub(crate) settings: Settings,
    /// Who listens where.
    pub(crate) layout: Layout,
}

/// The run folder.
#[derive(Clone, Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
}

/// Keeps other commands from starting or stopping the mesh of this run folder meanwhile.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lock {
    _file: File,
}

impl RunDir {
    /// The folder at `root`, which need not be there yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Makes the folder and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another command is at work in it.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join("lock");
        fs::create_dir_all(&self.root).with_context(|| format!("{} cannot be made", self.root.display()))?;
        let file = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("another `weft up` or `weft down` is at work in {}", self.root.display());
                Err(Failure::new(what).next("wait until it is done, or use another --run-dir").into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).context(format!("{} cannot be locked", path.display()))
            }
        }
    }

    /// The log of a member.
    pub(crate) fn log(&self, member: Member) -> PathBuf {
        self.root.join(member.name()).with_extension("log")
    }

    /// Starts a new log and keeps the last one beside it as `.log.1`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn rotate_log(&self, member: Member) -> io::Result<File> {
        let path = self.log(member);
        match fs::rename(&path, path.with_extension("log.1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::options().create_new(true).append(true).open(path)
    }

    /// Where Jaeger's configuration is written.
    pub(crate) fn jaeger_config(&self) -> PathBuf {
        self.root.join("jaeger.yaml")
    }

    fn pid_file(&self, member: Member) -> PathBuf {
        self.root.join(member.name()).with_extension("pid")
    }

    /// Notes that a member runs: its pid on the first line, its start time in ticks since boot on the second.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn record(&self, member: Member, identity: Identity) -> io::Result<()> {
        replace(&self.pid_file(member), &format!("{}\n{}\n", identity.pid, identity.started))
    }

    /// Forgets a member that no longer runs.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn forget(&self, member: Member) -> io::Result<()> {
        remove(&self.pid_file(member))
    }

    /// The process of a member, if it runs.
    pub(crate) fn running(&self, member: Member) -> Option<Identity> {
        self.recorded(member).filter(|identity| identity.is_running())
    }

    /// The process that a member had when it was last started, running or not.
    pub(crate) fn recorded(&self, member: Member) -> Option<Identity> {
        let text = fs::read_to_string(self.pid_file(member)).ok()?;
        let mut lines = text.lines();
        Some(Identity { pid: lines.next()?.parse().ok()?, started: lines.next()?.parse().ok()? })
    }

    /// Every member that runs.
    pub(crate) fn all_running(&self) -> Vec<(Member, Identity)> {
        Member::ALL.into_iter().filter_map(|member| Some((member, self.running(member)?))).collect()
    }

    /// What the last `weft up` left, if there was one.
    ///
    /// # Errors
    /// The file is there and cannot be understood.
    pub(crate) fn state(&self) -> anyhow::Result<Option<State>> {
        let path = self.root.join("state.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let state = serde_json::from_str(&text).with_context(|| {
            Failure::new(format!("{} is not one of this version's", path.display()))
                .next("stop the mesh with `weft down`, then remove the file")
        })?;
        Ok(Some(state))
    }

    /// Takes that word back, once nothing runs: where the mesh was is not where the next one will be.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn forget_state(&self) -> io::Result<()> {
        if self.all_running().is_empty() { remove(&self.root.join("state.json")) } else { Ok(()) }
    }

    /// Leaves word for other commands.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write_state(&self, state: &State) -> anyhow::Result<()> {
        let path = self.root.join("state.json");
        let text = serde_json::to_string_pretty(state)?;
        replace(&path, &text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole, so that no reader ever sees half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_recorded_process_is_found_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        assert_eq!(run.running(Member::Safety), None);
        run.record(Member::Safety, me()).unwrap();
        assert_eq!(run.all_running(), [(Member::Safety, me())]);
        run.forget(Member::Safety).unwrap();
        run.forget(Member::Safety).unwrap();
        assert_eq!(run.all_running(), []);
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let before = Identity { started: me().started - 1, ..me() };
        run.record(Member::Gateway, before).unwrap();
        assert_eq!(run.recorded(Member::Gateway), Some(before));
        assert_eq!(run.running(Member::Gateway), None);
    }

    #[test]
    fn a_new_start_keeps_the_last_log() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        for text in ["first", "second", "third"] {
            io::Write::write_all(&mut run.rotate_log(Member::Gateway).unwrap(), text.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(run.log(Member::Gateway)).unwrap(), "third");
        assert_eq!(fs::read_to_string(folder.path().join("gateway.log.1")).unwrap(), "second");
    }

    #[test]
    fn two_commands_do_not_work_in_one_folder_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(&folder.path().join("below"));
        let held = run.lock().unwrap();
        assert!(run.lock().unwrap_err().to_string().contains("another `weft up`"));
        drop(held);
        assert!(run.lock().is_ok());
    }
}
