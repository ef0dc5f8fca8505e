//! A small HTTP client: GET, a time limit, a size limit. For admin ports and for Jaeger's query API.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// No answer that this program asks for is larger.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Gets pages. Cheap to clone; connections are kept and used again.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Page {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The body, as text; bytes that are no UTF-8 appear as U+FFFD.
    pub(crate) text: String,
}

impl Http {
    /// A client without connections.
    pub(crate) fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Gets a page.
    ///
    /// # Errors
    /// The address is no address, nobody answers there, or not in time, or with more than 64 MiB.
    pub(crate) async fn get(&self, uri: &str, limit: Duration) -> anyhow::Result<Page> {
        let parsed: Uri = uri.parse().with_context(|| format!("`{uri}` is not an address"))?;
        tokio::time::timeout(limit, self.fetch(parsed))
            .await
            .with_context(|| format!("{uri} did not answer within {limit:?}"))?
            .with_context(|| format!("{uri} cannot be read"))
    }

    async fn fetch(&self, uri: Uri) -> anyhow::Result<Page> {
        let (head, body) = self.client.get(uri).await?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| anyhow!(error))?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Page { status: head.status, text })
    }
}
