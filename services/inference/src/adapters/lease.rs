//! A generation of an adapter, and those that use it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use prometheus_client::metrics::counter::Counter;

use crate::model::{AdapterWeights, LoadedAdapter};

/// One generation of an adapter. Its memory counts until it is dropped, that is until nobody uses it.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) id: String,
    pub(super) number: u64,
    pub(super) adapter: LoadedAdapter,
    /// Streams that hold a lease.
    pub(super) streams: AtomicU32,
    /// Those of them that have been in a step.
    pub(super) running: AtomicU32,
    pub(super) tokens: Counter,
    pub(super) memory: Arc<AtomicU64>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.memory.fetch_sub(self.adapter.bytes, Ordering::SeqCst);
    }
}

/// The right to use one generation of an adapter until the last clone is dropped: one stream's.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    generation: Arc<Generation>,
    runs: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.generation.streams.fetch_sub(1, Ordering::SeqCst);
        if *self.runs.get_mut() {
            self.generation.running.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Lease {
    pub(super) fn of(generation: &Arc<Generation>) -> Self {
        generation.streams.fetch_add(1, Ordering::SeqCst);
        Self(Arc::new(Held { generation: Arc::clone(generation), runs: AtomicBool::new(false) }))
    }

    /// Notes that its stream runs, and no longer waits.
    pub fn runs(&self) {
        if !self.0.runs.swap(true, Ordering::SeqCst) {
            self.0.generation.running.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The name that it had when it was leased.
    pub fn id(&self) -> &str {
        &self.0.generation.id
    }

    /// The number of the generation, which no other adapter of this process ever has; above 0.
    pub fn generation(&self) -> u64 {
        self.0.generation.number
    }

    /// SHA-256 of its weights file.
    pub fn fingerprint(&self) -> &str {
        &self.0.generation.adapter.fingerprint
    }

    /// What a step carries along.
    pub fn weights(&self) -> &AdapterWeights {
        &self.0.generation.adapter.weights
    }

    /// Counts generated tokens.
    pub fn count_tokens(&self, count: u64) {
        self.0.generation.tokens.inc_by(count);
    }
}

/// How an adapter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub id: String,
    /// The number of its generation.
    pub generation: u64,
    /// The highest rank of its products.
    pub rank: usize,
    /// The projections that it changes.
    pub targets: Vec<String>,
    /// Bytes of its weights in memory.
    pub bytes: u64,
    /// Streams that use this generation.
    pub streams: u32,
    /// SHA-256 of its weights file.
    pub fingerprint: String,
}

impl From<&Generation> for Standing {
    fn from(generation: &Generation) -> Self {
        let LoadedAdapter { rank, targets, bytes, fingerprint, .. } = generation.adapter.clone();
        let (id, streams) = (generation.id.clone(), generation.streams.load(Ordering::SeqCst));
        Self { id, generation: generation.number, rank, targets, bytes, streams, fingerprint }
    }
}
