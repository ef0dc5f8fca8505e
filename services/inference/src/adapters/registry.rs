//! Load, replace, unload, list, lease.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use weft_runtime::metrics::Metrics;

use super::{
    AdapterError, Lease, Standing, lease::Generation, metrics::AdapterMetrics, path, requests::Requests,
};
use crate::{
    config::AdaptersConfig,
    model::{AdapterBounds, AdapterFault, AdapterLoader, LoadedAdapter},
};

/// The longest name, in bytes.
const LONGEST_ID: usize = 128;
/// The most names that an error lists.
const MOST_NAMED: usize = 8;

/// The adapters of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Adapters {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    config: AdaptersConfig,
    loader: Option<Arc<dyn AdapterLoader>>,
    /// Held while one is read: one at a time, so that the memory bound holds.
    reading: Arc<tokio::sync::Mutex<()>>,
    loaded: Mutex<BTreeMap<String, Arc<Generation>>>,
    /// Bytes of all generations that are not dropped yet.
    memory: Arc<AtomicU64>,
    generations: AtomicU64,
    metrics: AdapterMetrics,
}

impl Adapters {
    /// None yet. `loader` is the model's.
    pub fn new(config: AdaptersConfig, loader: Option<Arc<dyn AdapterLoader>>, metrics: &Metrics) -> Self {
        let shared = Shared {
            config,
            loader,
            reading: Arc::default(),
            loaded: Mutex::default(),
            memory: Arc::default(),
            generations: AtomicU64::new(0),
            metrics: AdapterMetrics::new(metrics),
        };
        let shared = Arc::new(shared);
        let requests = Requests { shared: Arc::downgrade(&shared) };
        metrics.register(|registry| registry.register_collector(Box::new(requests)));
        Self { shared }
    }

    /// Loads those that the configuration names.
    ///
    /// # Errors
    /// The first that cannot be loaded, by name.
    pub async fn preload(&self) -> Result<(), (String, AdapterError)> {
        for id in &self.shared.config.preload {
            self.load(id, id, Some(0)).await.map_err(|error| (id.clone(), error))?;
        }
        Ok(())
    }

    /// Reads a folder and makes it the adapter of this name, in place of the one that has it: of generation `expected`
    /// where that is said; 0 for none. Streams that use the former one go on with it. A caller who goes away in time has
    /// loaded nothing.
    ///
    /// # Errors
    /// See [`AdapterError`].
    pub async fn load(&self, id: &str, path: &str, expected: Option<u64>) -> Result<Standing, AdapterError> {
        let shared = &self.shared;
        let loader = shared.loader.clone().ok_or(AdapterError::NotTaken)?;
        let root = shared.config.folder.as_deref().ok_or(AdapterError::NoFolder)?;
        check_id(id)?;
        // The thread that reads holds the lock, also after its caller went away.
        let turn = Arc::clone(&shared.reading).lock_owned().await;
        shared.check(id, expected)?;
        let folder = path::below(root, path)?;
        let max_bytes = shared.config.memory.0.saturating_sub(shared.memory.load(Ordering::SeqCst));
        let bounds = AdapterBounds { max_rank: shared.config.max_rank, max_bytes };
        let read = tokio::task::spawn_blocking(move || {
            let read = loader.load(&folder, &bounds).map_err(|fault| named(fault, &folder));
            (read, turn)
        });
        let (read, _turn) = read.await.map_err(|_| AdapterError::Panicked)?;
        shared.publish(id, read?, expected)
    }

    /// Takes an adapter away, of generation `expected` where that is said. Streams that use it go on with it.
    ///
    /// # Errors
    /// It is not loaded, or in another generation.
    pub fn unload(&self, id: &str, expected: Option<u64>) -> Result<(), AdapterError> {
        let mut loaded = self.shared.lock();
        let Some(current) = loaded.get(id) else { return Err(unknown(id, &loaded)) };
        check_generation(id, expected, Some(current.number))?;
        loaded.remove(id);
        self.shared.metrics.forget(id);
        self.shared.measure(&loaded);
        tracing::info!(adapter = id, "adapter unloaded");
        Ok(())
    }

    /// Those that are loaded, by name.
    pub fn list(&self) -> Vec<Standing> {
        self.shared.lock().values().map(|generation| Standing::from(generation.as_ref())).collect()
    }

    /// The right to use the present generation of an adapter.
    ///
    /// # Errors
    /// It is not loaded.
    pub fn lease(&self, id: &str) -> Result<Lease, AdapterError> {
        let loaded = self.shared.lock();
        let generation = loaded.get(id).ok_or_else(|| unknown(id, &loaded))?;
        self.shared.metrics.requested(id);
        Ok(Lease::of(generation))
    }

    /// Bytes of all generations that are loaded or still in use.
    pub fn memory(&self) -> u64 {
        self.shared.memory.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// The most that may be loaded, the names of those with a stream that runs, and of those with one that waits.
    pub(super) fn in_use(&self) -> (usize, Vec<String>, Vec<String>) {
        let loaded = self.lock();
        let of = |wanted: fn(u32, u32) -> bool| {
            let counts =
                |g: &Generation| (g.streams.load(Ordering::SeqCst), g.running.load(Ordering::SeqCst));
            let fits = |(id, g): (&String, &Arc<Generation>)| {
                let (streams, running) = counts(g);
                wanted(streams, running).then(|| id.clone())
            };
            loaded.iter().filter_map(fits).collect()
        };
        (self.config.max_adapters, of(|_, running| running > 0), of(|streams, running| streams > running))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Generation>>> {
        // Each change of the map is one insertion or removal: what a panicking thread left behind is whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a load of this name may succeed as things stand.
    fn check(&self, id: &str, expected: Option<u64>) -> Result<(), AdapterError> {
        self.check_in(&self.lock(), id, expected)
    }

    fn check_in(
        &self,
        loaded: &BTreeMap<String, Arc<Generation>>,
        id: &str,
        expected: Option<u64>,
    ) -> Result<(), AdapterError> {
        let current = loaded.get(id).map(|generation| generation.number);
        check_generation(id, expected, current)?;
        let most = self.config.max_adapters;
        if current.is_none() && loaded.len() >= most { Err(AdapterError::TooMany { most }) } else { Ok(()) }
    }

    fn publish(
        &self,
        id: &str,
        adapter: LoadedAdapter,
        expected: Option<u64>,
    ) -> Result<Standing, AdapterError> {
        let mut loaded = self.lock();
        // It may have been unloaded while its successor was read.
        self.check_in(&loaded, id, expected)?;
        self.memory.fetch_add(adapter.bytes, Ordering::SeqCst);
        let generation = Arc::new(Generation {
            id: id.to_owned(),
            number: self.generations.fetch_add(1, Ordering::SeqCst) + 1,
            adapter,
            streams: AtomicU32::new(0),
            running: AtomicU32::new(0),
            tokens: self.metrics.tokens(id),
            memory: Arc::clone(&self.memory),
        });
        let standing = Standing::from(generation.as_ref());
        drop(loaded.insert(id.to_owned(), generation));
        self.measure(&loaded);
        let Standing { generation, rank, bytes, .. } = standing;
        tracing::info!(adapter = id, generation, rank, bytes, "adapter loaded");
        Ok(standing)
    }

    fn measure(&self, loaded: &BTreeMap<String, Arc<Generation>>) {
        self.metrics.loaded.set(loaded.len() as i64);
        self.metrics.bytes.set(i64::try_from(self.memory.load(Ordering::SeqCst)).unwrap_or(i64::MAX));
    }
}

fn check_id(id: &str) -> Result<(), AdapterError> {
    let plain = |c: char| c.is_ascii_graphic();
    if (1..=LONGEST_ID).contains(&id.len()) && id.chars().all(plain) {
        return Ok(());
    }
    let rule = format!("has {} bytes; must be 1 to {LONGEST_ID} visible ASCII characters", id.len());
    Err(AdapterError::Field { field: "adapter_id", rule })
}

fn check_generation(id: &str, expected: Option<u64>, current: Option<u64>) -> Result<(), AdapterError> {
    match expected {
        Some(expected) if expected != current.unwrap_or(0) => {
            Err(AdapterError::OtherGeneration { id: id.to_owned(), expected, current })
        }
        _ => Ok(()),
    }
}

fn unknown(id: &str, loaded: &BTreeMap<String, Arc<Generation>>) -> AdapterError {
    let mut names: Vec<&str> = loaded.keys().take(MOST_NAMED).map(String::as_str).collect();
    if loaded.len() > MOST_NAMED {
        names.push("…");
    }
    let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut id = id.to_owned();
    id.truncate(id.floor_char_boundary(LONGEST_ID));
    AdapterError::Unknown { id, loaded: list }
}

/// A fault by the names of files only: where the service keeps them is nobody's business.
fn named(fault: AdapterFault, folder: &Path) -> AdapterFault {
    let prefix = format!("{}/", folder.display());
    match fault {
        AdapterFault::Unusable(text) => AdapterFault::Unusable(text.replace(&prefix, "")),
        AdapterFault::TooLarge { file, bytes, left } => {
            AdapterFault::TooLarge { file: file.replace(&prefix, ""), bytes, left }
        }
    }
}
