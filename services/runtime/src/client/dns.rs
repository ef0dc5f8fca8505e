//! The replicas behind a name, such as that of a headless service in Kubernetes.

use std::{io, net::SocketAddr, time::Duration};

use futures::{Stream, stream};
use tokio::net::lookup_host;

use super::Target;

/// All addresses of the name, again and again. A look-up that fails changes nothing: a name server that is down says
/// nothing about the replicas.
pub(super) fn members(address: http::Uri, every: Duration) -> impl Stream<Item = Vec<Target>> + Send {
    asked_again(every, move || {
        let address = address.clone();
        async move {
            let found = resolve(&address).await;
            found.inspect_err(|error| tracing::warn!(%address, %error, "cannot resolve"))
        }
    })
}

/// What a look-up finds, at once and then after each pause.
fn asked_again<T, Fut>(every: Duration, look_up: impl FnMut() -> Fut) -> impl Stream<Item = T>
where
    Fut: Future<Output = io::Result<T>>,
{
    stream::unfold((look_up, false), move |(mut look_up, mut asked)| async move {
        loop {
            if std::mem::replace(&mut asked, true) {
                tokio::time::sleep(every).await;
            }
            if let Ok(found) = look_up().await {
                return Some((found, (look_up, asked)));
            }
        }
    })
}

async fn resolve(address: &http::Uri) -> io::Result<Vec<Target>> {
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

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_again_and_a_look_up_that_fails_changes_nothing() {
        let mut answers = [Ok("one"), Err(io::Error::other("no name server")), Ok("one and two")].into_iter();
        let every = Duration::from_secs(5);
        let look_up = || std::future::ready(answers.next().unwrap());
        let mut found = std::pin::pin!(asked_again(every, look_up));
        let began = tokio::time::Instant::now();
        assert_eq!((found.next().await, began.elapsed()), (Some("one"), Duration::ZERO));
        assert_eq!((found.next().await, began.elapsed()), (Some("one and two"), 2 * every));
    }

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
