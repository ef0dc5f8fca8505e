//! What the tokenizer counts.

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// All of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Ids made of text.
    pub encoded_tokens: Counter,
    /// Ids turned into text.
    pub decoded_tokens: Counter,
    /// Bytes of text in one Encode or EncodeChat.
    pub text_bytes: Histogram,
    /// DecodeStream calls in progress.
    pub open_decode_streams: Gauge,
    /// Of the threads for CPU work.
    pub pool: PoolMetrics,
}

/// Of the threads for CPU work.
#[derive(Clone, Debug, Default)]
pub struct PoolMetrics {
    /// Jobs that wait for a thread.
    pub queue_depth: Gauge,
    /// Jobs refused because the queue was full.
    pub refused: Counter,
}

impl Metrics {
    /// Registers all of it.
    pub fn register(metrics: &weft_runtime::metrics::Metrics) -> Self {
        metrics.register(|registry| {
            let ours = Self::new();
            ours.describe(registry);
            ours
        })
    }

    fn new() -> Self {
        Self {
            encoded_tokens: Counter::default(),
            decoded_tokens: Counter::default(),
            // 64 B to 1 MiB.
            text_bytes: Histogram::new(exponential_buckets(64.0, 4.0, 8)),
            open_decode_streams: Gauge::default(),
            pool: PoolMetrics::default(),
        }
    }

    fn describe(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, metric: Counter| {
            registry.register(format!("weft_tokenizer_{name}"), help, metric);
        };
        add("encoded_tokens", "Ids made of text", self.encoded_tokens.clone());
        add("decoded_tokens", "Ids turned into text", self.decoded_tokens.clone());
        add(
            "pool_refused",
            "Calls refused because the queue for CPU work was full",
            self.pool.refused.clone(),
        );
        let mut add = |name: &str, help: &str, metric: Gauge| {
            registry.register(format!("weft_tokenizer_{name}"), help, metric);
        };
        add("open_decode_streams", "DecodeStream calls in progress", self.open_decode_streams.clone());
        add("pool_queue_depth", "Calls that wait for a thread", self.pool.queue_depth.clone());
        let name = "weft_tokenizer_text_bytes";
        registry.register(name, "Bytes of text in one Encode or EncodeChat", self.text_bytes.clone());
    }
}
