//! The replicas behind a name, such as that of a headless service in Kubernetes.

use std::{net::SocketAddr, time::Duration};

use futures::{Stream, stream};
use tokio::net::lookup_host;

use super::Target;

/// All addresses of the name, again and again. A look-up that fails changes nothing: a name server that is down says
/// nothing about the replicas.
pub(super) fn members(address: http::Uri, every: Duration) -> impl Stream<Item = Vec<Target>> + Send {
    stream::unfold((address, None), move |(address, pause)| async move {
        let mut pause: Option<Duration> = pause;
        loop {
            if let Some(pause) = pause.replace(every) {
                tokio::time::sleep(pause).await;
            }
            match resolve(&address).await {
                Ok(members) => return Some((members, (address, pause))),
                Err(error) => tracing::warn!(%address, %error, "cannot resolve"),
            }
        }
    })
}

async fn resolve(address: &http::Uri) -> std::io::Result<Vec<Target>> {
    let host = address.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = address.port_u16().unwrap_or(if address.scheme_str() == Some("https") { 443 } else { 80 });
    let found = lookup_host((host, port)).await?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_unstable();
    found.dedup();
    let origin = |socket| Target::Resolved { origin: address.clone(), address: socket };
    Ok(found.into_iter().map(origin).collect())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_becomes_its_addresses() {
        let mut members =
            std::pin::pin!(members("http://localhost:50061".parse().unwrap(), Duration::from_secs(1)));
        let found = members.next().await.unwrap();
        let loopback = Target::Resolved {
            origin: "http://localhost:50061".parse().unwrap(),
            address: "127.0.0.1:50061".parse().unwrap(),
        };
        assert!(found.iter().any(|target| target.is(&loopback)), "{found:?}");
    }
}
