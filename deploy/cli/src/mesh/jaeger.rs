//! Jaeger v2: where it listens and how much it may keep.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{Member, layout::moved_port};

/// Where it takes spans, by gRPC.
pub(crate) const OTLP_PORT: u16 = 4317;

/// Where its executable is, from the folder that holds `deploy/`.
pub(crate) const BINARY: &str = ".weft/bin/jaeger";

/// How it is had where it is missing.
pub(crate) const HOW_TO_GET: &str = "build it once with `make jaeger` to see traces";

/// Its runtime gives memory back before it grows beyond this: a trace store must not push out the model.
pub(crate) const MEMORY_LIMIT: &str = "256MiB";

/// The newest traces that it keeps; the oldest one makes room.
const MAX_TRACES: u32 = 4_000;

/// Where Jaeger listens, always on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// Spans come in here by OTLP over gRPC.
    pub(crate) otlp: u16,
    /// Spans come in here by OTLP over HTTP.
    pub(crate) otlp_http: u16,
    /// Traces are read here by HTTP.
    pub(crate) query: u16,
    /// Traces are read here by gRPC.
    pub(crate) query_grpc: u16,
    /// `/status` tells here whether it is ready.
    pub(crate) health: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { otlp: OTLP_PORT, otlp_http: 4318, query: 16686, query_grpc: 16685, health: 13133 }
    }
}

impl Ports {
    /// All of them, moved by the port offset.
    ///
    /// # Errors
    /// One moves beyond 65535.
    pub(crate) fn moved(self, offset: u16) -> anyhow::Result<Self> {
        let moved = |port| moved_port(port, offset, Member::Jaeger);
        Ok(Self {
            otlp: moved(self.otlp)?,
            otlp_http: moved(self.otlp_http)?,
            query: moved(self.query)?,
            query_grpc: moved(self.query_grpc)?,
            health: moved(self.health)?,
        })
    }

    /// Every address, and what it is for.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let named = [
            ("OTLP", self.otlp),
            ("OTLP/HTTP", self.otlp_http),
            ("query", self.query),
            ("query gRPC", self.query_grpc),
            ("health", self.health),
        ];
        named.map(|(what, port)| (what, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))).to_vec()
    }

    /// Where services send their spans.
    pub(crate) fn otlp_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.otlp)
    }

    /// Where traces are read.
    pub(crate) fn query_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.query)
    }

    /// The page that tells whether it is ready.
    pub(crate) fn health_page(&self) -> String {
        format!("http://127.0.0.1:{}/status", self.health)
    }

    /// Its configuration: spans in by OTLP, a bounded store in memory, traces out by the query API.
    pub(crate) fn config(&self) -> String {
        let Self { otlp, otlp_http, query, query_grpc, health } = self;
        format!(
            r#"# Written by `weft up` at each start; changes here do not last.
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces:
      receivers: [otlp]
      processors: [batch]
      exporters: [jaeger_storage_exporter]
  telemetry:
    resource:
      service.name: jaeger
    metrics:
      level: none
    logs:
      level: info
extensions:
  jaeger_query:
    storage:
      traces: newest
    http:
      endpoint: "127.0.0.1:{query}"
    grpc:
      endpoint: "127.0.0.1:{query_grpc}"
  jaeger_storage:
    backends:
      newest:
        memory:
          max_traces: {MAX_TRACES}
  healthcheckv2:
    use_v2: true
    http:
      endpoint: "127.0.0.1:{health}"
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: "127.0.0.1:{otlp}"
      http:
        endpoint: "127.0.0.1:{otlp_http}"
processors:
  batch:
    timeout: 200ms
exporters:
  jaeger_storage_exporter:
    trace_storage: newest
"#
        )
    }
}

/// Whether its executable is there, below the folder from which the mesh is started.
pub(crate) fn is_built(working_dir: &Path) -> bool {
    working_dir.join(BINARY).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jaeger_never_listens_beyond_loopback() {
        let config = Ports::default().moved(10).unwrap().config();
        let endpoints: Vec<&str> = config.lines().filter(|line| line.contains("endpoint:")).collect();
        assert_eq!(endpoints.len(), 5);
        assert!(endpoints.iter().all(|line| line.contains("\"127.0.0.1:")), "{endpoints:?}");
        assert!(config.contains("127.0.0.1:4327") && config.contains("127.0.0.1:16696"));
    }
}
