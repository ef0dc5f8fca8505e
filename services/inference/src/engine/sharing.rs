//! Who shares blocks with whom.

use crate::{config::KvCacheConfig, kv_cache::BlockHash, model::ModelInfo, request::Generate};

/// Between which requests blocks are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Between all that have the same salt.
    Requests,
    /// Between the continuations of a request only.
    Continuations,
    /// Never: what the model keeps of a token is not decided by the tokens up to it alone.
    Nowhere,
}

impl Sharing {
    /// As configured, where the model allows it.
    pub(super) fn of(config: &KvCacheConfig, info: &ModelInfo) -> Self {
        if info.keys_depend_on_length {
            tracing::info!("the model's keys depend on how long a sequence is: no prefix is shared");
            Self::Nowhere
        } else if config.prefix_caching {
            Self::Requests
        } else {
            Self::Continuations
        }
    }

    /// The root of a request's prefixes; none where it shares nothing. `arrival` is a number of its own.
    pub(super) fn root(self, request: &Generate, arrival: u64) -> Option<BlockHash> {
        match self {
            Self::Requests => {
                let adapter = request.adapter.as_ref().map(|lease| (lease.id(), lease.generation()));
                Some(BlockHash::shared_root(&request.cache_salt, adapter))
            }
            Self::Continuations if request.continuations > 1 => Some(BlockHash::private_root(arrival)),
            Self::Continuations | Self::Nowhere => None,
        }
    }
}
