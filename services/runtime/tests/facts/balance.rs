//! Facts 4, 5 and 6: replicas of a peer, called as one.

use futures::{StreamExt as _, channel::mpsc};
use tonic::Code;
use weft_runtime::client::{self, ClientConfig, Target};

use crate::support::{Client, STALL, Served, caller, encode, metric, scripts, text};

struct Balanced {
    client: Client,
    replicas: Vec<Served>,
    members: mpsc::UnboundedSender<Vec<Target>>,
    context: weft_runtime::Context,
}

impl Balanced {
    async fn over(count: usize) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Served::new().await);
        }
        let (members, discovered) = mpsc::unbounded();
        let context = caller();
        let outgoing =
            client::connect_discovered(&context, "tokenizer", discovered, &ClientConfig::default());
        let this = Self { client: Client::new(outgoing), replicas, members, context };
        this.announce(0..count);
        this
    }

    fn announce(&self, which: std::ops::Range<usize>) {
        let targets = self.replicas[which].iter().map(|served| Target::Pipe(served.connector.clone()));
        self.members.unbounded_send(targets.collect()).unwrap();
    }

    /// Calls that a replica has answered, streams that still run not included.
    fn served(&self, replica: usize) -> f64 {
        let page = self.replicas[replica].context.metrics.encode();
        let counts = page.lines().filter(|line| line.starts_with("weft_rpc_server_calls_total"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn in_flight(&self, replica: usize) -> f64 {
        let page = self.replicas[replica].context.metrics.encode();
        let counts = page.lines().filter(|line| line.starts_with("weft_rpc_server_calls_in_flight"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Fact 4: with a load that falls at the headers, P2C over streams is a coin toss, and one replica gets far more.
#[tokio::test(start_paused = true)]
async fn streams_that_still_run_spread_evenly() {
    let mut balanced = Balanced::over(2).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = balanced.client.decode_stream(scripts(&[STALL])).await.unwrap().into_inner();
        text(&mut stream).await;
        streams.push(stream);
    }
    assert_eq!((balanced.in_flight(0), balanced.in_flight(1)), (32.0, 32.0));
}

/// Fact 5: a balancer that reads discovery in its calls holds on to what has left until somebody calls.
#[tokio::test(start_paused = true)]
async fn who_the_replicas_are_is_known_without_a_call() {
    let mut balanced = Balanced::over(3).await;
    balanced.client.encode(encode("a")).await.unwrap();
    for count in [3, 1, 0, 2] {
        balanced.announce(0..count);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(metric(&balanced.context, "weft_rpc_client_replicas{"), count as f64);
    }
    // And the next call goes to one of those.
    let before = balanced.served(2);
    for _ in 0..20 {
        balanced.client.encode(encode("a")).await.unwrap();
    }
    assert_eq!(balanced.served(2), before);
}

/// Fact 6: a replica that fails at once never has load, so a least-loaded balancer sends it everything.
#[tokio::test(start_paused = true)]
async fn a_replica_that_fails_at_once_does_not_draw_the_calls() {
    let mut balanced = Balanced::over(2).await;
    balanced.replicas[0].connector.refuse(true);
    // Streams give the healthy one load, and the dead one none.
    let (mut failed, mut streams) = (0, Vec::new());
    for _ in 0..40 {
        match balanced.client.decode_stream(scripts(&[STALL])).await {
            Ok(stream) => streams.push(stream.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                failed += 1;
            }
        }
    }
    assert!(failed <= 3, "{failed} of 40 calls went to a dead replica");
    assert_eq!(metric(&balanced.context, "weft_rpc_client_breakers_open{"), 1.0);
    // Once it is back, a probe finds it, and the new calls even things out.
    balanced.replicas[0].connector.refuse(false);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for _ in 0..20 {
        streams.push(balanced.client.decode_stream(scripts(&[STALL])).await.unwrap().into_inner());
    }
    assert_eq!(metric(&balanced.context, "weft_rpc_client_breakers_open{"), 0.0);
    assert!(balanced.in_flight(0) >= 15.0, "{} streams on the replica that came back", balanced.in_flight(0));
    futures::stream::iter(streams).for_each(|stream| async { drop(stream) }).await;
}
