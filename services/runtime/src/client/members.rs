//! Who the replicas of a peer are.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::{Target, dns};

/// Who the replicas of a peer are, or how that is found out again and again.
#[derive(Clone, Debug)]
pub enum Members {
    /// These, always.
    Fixed(Vec<Target>),
    /// All that a name stands for, such as that of a headless service in Kubernetes.
    Named {
        /// Scheme, name and port.
        address: http::Uri,
        /// How often the name is resolved.
        every: Duration,
    },
    /// Whatever a source says.
    Followed(Source),
}

/// Knows how to find out who the replicas are, again and again.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn() -> BoxStream<'static, Vec<Target>> + Send + Sync>);

impl Source {
    /// Each item of the stream is all replicas that there are. It is read by a task, whether there are calls or not.
    pub fn new(follow: impl Fn() -> BoxStream<'static, Vec<Target>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(follow))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Source").finish_non_exhaustive()
    }
}

impl From<Target> for Members {
    fn from(target: Target) -> Self {
        Self::Fixed(vec![target])
    }
}

impl Members {
    /// Each item is all of them.
    pub(super) fn follow(self) -> BoxStream<'static, Vec<Target>> {
        match self {
            Self::Fixed(targets) => stream::iter([targets]).boxed(),
            Self::Named { address, every } => dns::members(address, every).boxed(),
            Self::Followed(source) => (source.0)(),
        }
    }
}
