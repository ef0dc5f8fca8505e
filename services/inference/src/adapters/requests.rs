//! Which adapters requests use, under the name by which the Gateway API Inference Extension's endpoint picker knows it.

use std::{fmt, sync::Weak, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::registry::Shared;

/// vLLM's `vllm:lora_requests_info`: names as labels, separated by commas, and the time as the value, since whoever reads it
/// takes the newest series. Made when it is asked for, so there is one series and it is never stale.
#[derive(Debug)]
pub(super) struct Requests {
    /// Weak: the registry of metrics must not keep adapters alive.
    pub(super) shared: Weak<Shared>,
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        let (most, running, waiting) = shared.in_use();
        let labels = [
            ("max_lora", most.to_string()),
            ("running_lora_adapters", running.join(",")),
            ("waiting_lora_adapters", waiting.join(",")),
        ];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "Adapters that requests use, by name; the value is the time of this answer";
        let mut metric =
            encoder.encode_descriptor("vllm:lora_requests_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(now.as_secs_f64()).encode(metric.encode_family(&labels)?)
    }
}
