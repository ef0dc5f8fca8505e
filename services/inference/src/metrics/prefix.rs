//! What is counted of the prefix cache.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::scheduler::PrefixCounts;

/// The metrics of the prefix cache. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PrefixMetrics {
    /// Free blocks whose content may be asked for again.
    pub idle_blocks: Gauge,
    /// How often such content gave way.
    pub evictions: Counter,
    queried: Counter,
    hit: Counter,
}

impl PrefixMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let this = Self::default();
        let mut counter =
            |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("weft_prefix_queried_tokens", "Prompt tokens looked up in the prefix cache", &this.queried);
        counter("weft_prefix_hit_tokens", "Prompt tokens found in the prefix cache", &this.hit);
        counter("weft_prefix_evictions", "Free blocks whose cached content gave way", &this.evictions);
        let help = "Free blocks of the KV cache whose content may be asked for again";
        registry.register("weft_kv_blocks_idle", help, this.idle_blocks.clone());
        this
    }

    /// Counts from what was told before to what is so now.
    pub(crate) fn counted(&self, before: PrefixCounts, now: PrefixCounts) {
        self.queried.inc_by(now.queried_tokens - before.queried_tokens);
        self.hit.inc_by(now.hit_tokens - before.hit_tokens);
    }
}
