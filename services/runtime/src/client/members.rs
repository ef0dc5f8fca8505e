//! Who the replicas of a peer are.

use std::time::Duration;

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
        }
    }
}
