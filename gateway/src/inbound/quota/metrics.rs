//! What quotas show: limits and use at the moment of the scrape, and refusals. Only tenants that the limits file names
//! become labels; the others share one.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
};
use tokio::time::Instant;

use super::{
    Inner, Key, Quotas,
    account::{Kind, Use},
    config::Limits,
};

/// Stands for every tenant that the limits file does not name.
pub(super) const OTHER: &str = "other";

/// What is counted as it happens.
#[derive(Clone, Debug, Default)]
pub(super) struct QuotaMetrics {
    refusals: Family<RefusalLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    tenant: String,
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    tenant: String,
    model: String,
    limit: &'static str,
}

impl QuotaMetrics {
    pub(super) fn count(&self, tenant: &str, kind: Kind) {
        let labels = RefusalLabels { tenant: tenant.to_owned(), limit: kind.name() };
        self.refusals.get_or_create(&labels).inc();
    }
}

/// Puts all of it on the admin port's page.
pub(super) fn register(quotas: &Quotas, metrics: &weft_runtime::metrics::Metrics) {
    let (refusals, accounts) = (quotas.inner.metrics.refusals.clone(), Accounts(Arc::clone(&quotas.inner)));
    metrics.register(|registry| {
        let registry = registry.sub_registry_with_prefix("weft_gateway");
        registry.register("quota_refusals", "Requests refused by a quota", refusals);
        registry.register_collector(Box::new(accounts));
    });
}

/// The accounts of tenants that have names of their own.
#[derive(Debug)]
struct Accounts(Arc<Inner>);

impl Accounts {
    fn list(&self) -> Vec<(Key, Limits, Use)> {
        let quotas = Quotas { inner: Arc::clone(&self.0) };
        let Some(table) = quotas.table() else { return Vec::new() };
        let now = Instant::now();
        let accounts = quotas.accounts();
        let named = accounts.values().filter(|account| table.names(&account.key.tenant));
        named
            .map(|account| {
                let limits = table.of(&account.key.tenant, &account.key.model);
                (account.key.clone(), limits, account.lock().in_use(now))
            })
            .collect()
    }
}

/// What a gauge reads of an account, of each kind.
type Values = fn(&Limits, &Use) -> [(Kind, Option<u64>); 3];

impl Collector for Accounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let accounts = self.list();
        let gauge = |name, help, values: Values| Gauge {
            name,
            help,
            rows: accounts.iter().flat_map(|(key, limits, used)| rows(key, values(limits, used))).collect(),
        };
        let gauges = [
            gauge("quota_limit", "What a tenant may use of a model", |limits, _| {
                kinds(limits.requests, limits.tokens, limits.streams)
            }),
            gauge("quota_used", "What a tenant has used of a model within the window", |_, used| {
                kinds(Some(used.requests), Some(used.tokens), Some(used.streams))
            }),
            gauge("quota_reserved", "What requests in flight may still use", |_, used| {
                kinds(None, Some(used.reserved), None)
            }),
        ];
        gauges.iter().try_for_each(|gauge| gauge.encode(&mut encoder))
    }
}

/// A gauge and its values.
struct Gauge {
    name: &'static str,
    help: &'static str,
    rows: Vec<(AccountLabels, i64)>,
}

impl Gauge {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in &self.rows {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

fn kinds(requests: Option<u64>, tokens: Option<u64>, streams: Option<u64>) -> [(Kind, Option<u64>); 3] {
    [(Kind::Requests, requests), (Kind::Tokens, tokens), (Kind::Streams, streams)]
}

/// The values that there are, with their labels.
fn rows(key: &Key, values: [(Kind, Option<u64>); 3]) -> Vec<(AccountLabels, i64)> {
    let row = |(kind, value): (Kind, Option<u64>)| {
        let Key { tenant, model } = key.clone();
        Some((AccountLabels { tenant, model, limit: kind.name() }, i64::try_from(value?).ok()?))
    };
    values.into_iter().filter_map(row).collect()
}
