//! Files that are read again when they change: keys, key sets, limits. What is not usable never replaces what is.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use weft_runtime::{
    BoxError, Context,
    config::{Rule, Section, any},
    drain::Phase,
};

use crate::metrics::Reloads;

/// Where a file is, and how often it is looked at.
#[derive(Clone, Debug)]
pub(crate) struct FileConfig {
    /// Relative to the working directory.
    pub(crate) path: PathBuf,
    /// Between two looks.
    pub(crate) check_every: Duration,
}

/// Short enough for an operator who waits for a key to work, or to stop working.
const CHECK_EVERY: Duration = Duration::from_secs(2);

impl FileConfig {
    /// Reads `file` and `check_every` of a section that must have the first.
    pub(crate) fn required(section: &mut Section<'_>) -> Self {
        Self { path: section.required("file", any()), check_every: check_every(section) }
    }

    /// Reads `file` and `check_every` of a section that may be without.
    pub(crate) fn optional(section: &mut Section<'_>) -> Option<Self> {
        let check_every = check_every(section);
        section.optional("file", any()).map(|path| Self { path, check_every })
    }
}

fn check_every(section: &mut Section<'_>) -> Duration {
    let often = Rule {
        holds: |time, bounds| *time >= bounds[0] && *time <= bounds[1],
        bounds: vec![Duration::from_millis(100), Duration::from_secs(3600)],
        words: "must be between 100ms and 1h".to_owned(),
    };
    section.value("check_every", CHECK_EVERY, often)
}

/// How the text of a file becomes what is in force.
type Read<T> = Box<dyn Fn(&str) -> Result<T, BoxError> + Send + Sync>;

/// A file and what was last made of it.
pub(crate) struct Watched<T> {
    name: &'static str,
    config: FileConfig,
    read: Read<T>,
    in_force: ArcSwap<T>,
    /// The bytes that were judged last, usable or not: each change is judged once.
    judged: Mutex<Vec<u8>>,
    reloads: Reloads,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("name", &self.name).field("path", &self.config.path).finish()
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or is not usable: a process does not start with that.
    pub(crate) fn open(
        name: &'static str,
        config: FileConfig,
        reloads: Reloads,
        read: impl Fn(&str) -> Result<T, BoxError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, BoxError> {
        let wrong = |error: BoxError| Unusable { name, path: config.path.clone(), source: error };
        let bytes = fs::read(&config.path).map_err(|error| wrong(error.into()))?;
        let in_force = judge(&bytes, &read).map_err(wrong)?;
        Ok(Arc::new(Self {
            name,
            config,
            read: Box::new(read),
            in_force: ArcSwap::from_pointee(in_force),
            judged: Mutex::new(bytes),
            reloads,
        }))
    }

    /// What is in force now.
    pub(crate) fn now(&self) -> Arc<T> {
        self.in_force.load_full()
    }

    /// Looks at the file until the process drains.
    pub(crate) fn watch(self: &Arc<Self>, context: &Context) {
        let (this, drain) = (Arc::clone(self), context.drain.clone());
        context.tasks.spawn("watch file", async move {
            let look = async {
                loop {
                    tokio::time::sleep(this.config.check_every).await;
                    this.look();
                }
            };
            tokio::select! {
                () = drain.reached(Phase::Draining) => {}
                () = look => {}
            }
        });
    }

    /// Takes over what the file holds, if that is new and usable. It is small and local, so this does not leave the thread.
    pub(crate) fn look(&self) {
        // Between the two halves of a replacement a file may be missing: the next look will tell.
        let Ok(bytes) = fs::read(&self.config.path) else { return };
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if *judged == bytes {
            return;
        }
        let outcome = judge(&bytes, &self.read);
        *judged = bytes;
        match outcome {
            Ok(new) => {
                self.in_force.store(Arc::new(new));
                self.reloads.count(self.name, true);
                tracing::info!(file = %self.config.path.display(), "new {} in force", self.name);
            }
            Err(error) => {
                self.reloads.count(self.name, false);
                let (file, error) = (self.config.path.display(), weft_runtime::status::chain(&*error));
                tracing::error!(%file, error, "new {} not usable; the old ones stay in force", self.name);
            }
        }
    }
}

fn judge<T>(bytes: &[u8], read: impl Fn(&str) -> Result<T, BoxError>) -> Result<T, BoxError> {
    read(std::str::from_utf8(bytes)?)
}

/// A file that a process cannot start with.
#[derive(Debug, thiserror::Error)]
#[error("the {name} in {path} are not usable")]
struct Unusable {
    name: &'static str,
    path: PathBuf,
    source: BoxError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usable_never_replaces_what_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let config = FileConfig { path: path.clone(), check_every: CHECK_EVERY };
        let open = || {
            Watched::open("numbers", config.clone(), Reloads::default(), |text| {
                Ok(text.trim().parse::<u32>()?)
            })
        };
        assert!(open().is_err(), "a file that is not there");
        fs::write(&path, "one").unwrap();
        let error = weft_runtime::status::chain(&*open().unwrap_err());
        assert!(error.contains("numbers") && error.contains("invalid digit"), "{error}");

        fs::write(&path, "1").unwrap();
        let watched = open().unwrap();
        for (text, expected) in [("2", 2), ("three", 2), ("\u{fffd}", 2), ("4", 4)] {
            fs::write(&path, text).unwrap();
            watched.look();
            assert_eq!(*watched.now(), expected, "after {text:?}");
        }
        fs::remove_file(&path).unwrap();
        watched.look();
        assert_eq!(*watched.now(), 4);
    }
}
