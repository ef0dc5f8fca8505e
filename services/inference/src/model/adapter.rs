//! What a model that takes adapters gives: a loader for any thread, and weights that a step carries along.

use std::{any::Any, fmt, path::Path, sync::Arc};

/// An adapter's weights in the form that its model computes with. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct AdapterWeights(Arc<dyn Any + Send + Sync>);

impl AdapterWeights {
    /// Of any form: only the model that they were made for knows it.
    pub fn new(weights: impl Any + Send + Sync) -> Self {
        Self(Arc::new(weights))
    }

    /// The weights, where they have this form.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// Whether both are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for AdapterWeights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("AdapterWeights").field(&Arc::as_ptr(&self.0)).finish()
    }
}

/// What an adapter may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterBounds {
    /// The highest rank.
    pub max_rank: usize,
    /// The most bytes of its weights, in the file and in memory.
    pub max_bytes: u64,
}

/// An adapter that was read.
#[derive(Clone, Debug)]
pub struct LoadedAdapter {
    /// Its weights.
    pub weights: AdapterWeights,
    /// The highest rank of its products.
    pub rank: usize,
    /// The projections that it changes, as `q_proj`.
    pub targets: Vec<String>,
    /// Bytes of its weights in memory.
    pub bytes: u64,
    /// SHA-256 of its weights file, in lower-case hex.
    pub fingerprint: String,
}

/// Why a folder does not become an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterFault {
    /// What is in it cannot be served: the file, the key or tensor, and the rule.
    #[error("{0}")]
    Unusable(String),
    /// It takes more memory than there is for it.
    #[error("{file} takes {bytes} bytes; {left} bytes are left for adapters")]
    TooLarge {
        /// The weights file.
        file: String,
        /// Bytes it would take, or has taken when it went over.
        bytes: u64,
        /// The bound.
        left: u64,
    },
}

/// Reads adapters for one model, on any thread.
pub trait AdapterLoader: Send + Sync + fmt::Debug {
    /// Reads a folder.
    ///
    /// # Errors
    /// See [`AdapterFault`].
    fn load(&self, folder: &Path, bounds: &AdapterBounds) -> Result<LoadedAdapter, AdapterFault>;
}
