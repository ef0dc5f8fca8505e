//! Takes a changed policy file without a restart. A file that is not usable changes nothing: the policies in force
//! stay, the log says all that is wrong, and a metric stays up until the file is right again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use weft_runtime::drain::{Drain, Phase};

use crate::{
    error::Error,
    metrics::Metrics,
    policy::{Compiler, Policies},
};

/// The policies in force. A text keeps those that it started with.
pub type InForce = Arc<ArcSwap<Policies>>;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

/// The policy file and what was made of it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    compiler: Arc<Compiler>,
    in_force: InForce,
    /// Of the file that was looked at last; `None` if it was not there.
    seen: Option<Stamp>,
    metrics: Metrics,
}

/// What a look at the file led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is as it was.
    Unchanged,
    /// It has changed and is in force.
    Taken,
    /// It has changed and is not usable: what was in force stays.
    Refused,
}

impl Source {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or has mistakes.
    pub async fn open(path: PathBuf, max_hold_bytes: usize, metrics: Metrics) -> Result<Self, Error> {
        let seen = stamp(&path);
        let file = path.clone();
        // Compiling is pure work of some tens of milliseconds: not on the reactor.
        let work = move || {
            let compiler = Compiler::new(max_hold_bytes)?;
            read(&file, &compiler).map(|policies| (compiler, policies))
        };
        let (compiler, policies) = spawn_blocking(work).await??;
        metrics.in_force(policies.version());
        tracing::info!(file = %path.display(), version = policies.version(), policies = policies.list().len(), "policies in force");
        let in_force = Arc::new(ArcSwap::from_pointee(policies));
        Ok(Self { path, compiler: Arc::new(compiler), in_force, seen, metrics })
    }

    /// The policies in force, now and after each change.
    pub fn in_force(&self) -> InForce {
        Arc::clone(&self.in_force)
    }

    /// Looks at the file until the process drains.
    pub async fn watch(mut self, every: Duration, drain: Drain) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = drain.reached(Phase::Draining) => return,
                _ = ticks.tick() => self.look().await,
            };
        }
    }

    /// Takes the file if it has changed and is usable.
    pub async fn look(&mut self) -> Look {
        let (path, compiler, seen) = (self.path.clone(), Arc::clone(&self.compiler), self.seen);
        let work = move || {
            let now = stamp(&path);
            (now != seen).then(|| (now, read(&path, &compiler)))
        };
        let changed = match spawn_blocking(work).await {
            Ok(changed) => changed,
            Err(error) => return self.refuse(&error.into()),
        };
        let Some((now, policies)) = changed else { return Look::Unchanged };
        self.seen = now;
        match policies {
            Ok(policies) => self.take(policies),
            Err(error) => self.refuse(&error),
        }
    }

    fn take(&self, policies: Policies) -> Look {
        self.metrics.reloaded(true);
        self.metrics.in_force(policies.version());
        tracing::info!(file = %self.path.display(), version = policies.version(), policies = policies.list().len(), "policies in force");
        self.in_force.store(Arc::new(policies));
        Look::Taken
    }

    fn refuse(&self, error: &Error) -> Look {
        self.metrics.reloaded(false);
        let version = self.in_force.load().version().to_owned();
        tracing::error!(file = %self.path.display(), %error, version, "the changed policy file is not taken");
        Look::Refused
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len() })
}

fn read(path: &Path, compiler: &Compiler) -> Result<Policies, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    compiler.compile(&text).map_err(|source| Error::Unusable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
