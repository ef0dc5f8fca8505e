//! Facts 4, 5 and 6: replicas of a peer, called as one.

use futures::{StreamExt as _, channel::mpsc};
use tonic::Code;
use weft_runtime::client::{
    self, ClientConfig, Fitness, Members, OutlierConfig, Pool, Replica, Target, Tried, TwoChoices,
};

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

/// A fixed list of two.
async fn pool() -> (Pool, [Served; 2]) {
    pool_of(&caller()).await
}

async fn pool_of(context: &weft_runtime::Context) -> (Pool, [Served; 2]) {
    let replicas = [Served::new().await, Served::new().await];
    let targets = replicas.iter().map(|served| Target::Pipe(served.connector.clone())).collect();
    let (config, policy) = (ClientConfig::default(), std::sync::Arc::<TwoChoices>::default());
    let pool = Pool::new(context, "tokenizer", Members::Fixed(targets), &config, policy).unwrap();
    (pool, replicas)
}

fn answered(served: &Served) -> f64 {
    let page = served.context.metrics.encode();
    let counts = page.lines().filter(|line| line.starts_with("weft_rpc_server_calls_total"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Makes some calls, and tells how many of them each replica has answered.
async fn spread(pool: &Pool, replicas: &[Served; 2]) -> [f64; 2] {
    let before = [0, 1].map(|which| answered(&replicas[which]));
    for _ in 0..20 {
        Client::new(pool.outgoing()).encode(encode("a")).await.unwrap();
    }
    [0, 1].map(|which| answered(&replicas[which]) - before[which])
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_nobody_has_looked_at_gets_no_calls_beside_one_that_is_fit() {
    let (pool, replicas) = pool().await;
    let all = pool.replicas();
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "nobody looks, so all are used");
    pool.set_fitness(&all[1], Fitness::Fit);
    assert_eq!(spread(&pool, &replicas).await, [0.0, 20.0]);
    pool.set_fitness(&all[0], Fitness::Fit);
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "both are fit");
}

/// Behind the next connection may be a process that has not begun to serve.
#[tokio::test(start_paused = true)]
async fn a_replica_whose_connection_has_ended_gets_no_calls_before_the_next_look() {
    let context = caller();
    let (pool, replicas) = pool_of(&context).await;
    let all = pool.replicas();
    for replica in &all {
        pool.set_fitness(replica, Fitness::Fit);
    }
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "both are fit");
    replicas[0].connector.cut();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(all.iter().map(Replica::fitness).collect::<Vec<_>>(), [Fitness::Unproven, Fitness::Fit]);
    assert_eq!(metric(&context, "weft_rpc_client_replica_fit{"), 1.0);
    assert_eq!(spread(&pool, &replicas).await, [0.0, 20.0]);
    pool.set_fitness(&all[0], Fitness::Fit);
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "it was looked at");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ill_is_used_where_no_other_is_and_a_foreign_one_never() {
    let (pool, replicas) = pool().await;
    let all: [Replica; 2] = pool.replicas().try_into().unwrap();
    pool.set_fitness(&all[0], Fitness::Ill);
    pool.set_fitness(&all[1], Fitness::Foreign);
    assert_eq!(spread(&pool, &replicas).await, [20.0, 0.0]);
    pool.set_fitness(&all[0], Fitness::Foreign);
    let status = Client::new(pool.outgoing()).encode(encode("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("none of the 2 replicas of tokenizer"), "{}", status.message());
}

/// Two replicas that are well, of which the first fails every other of its calls. The breaker sees failures in a row only.
async fn one_that_fails_now_and_then(context: &weft_runtime::Context) -> (Pool, [Served; 2]) {
    let (pool, replicas) = pool_of(context).await;
    let all = pool.replicas();
    for replica in &all {
        pool.set_fitness(replica, Fitness::Fit);
    }
    for _ in 0..40 {
        let tried = Tried::default();
        let attempt = async |text| {
            let mut request = tonic::Request::new(encode(text));
            request.extensions_mut().insert(tried.clone());
            Client::new(pool.outgoing()).encode(request).await.is_ok()
        };
        assert!(attempt("a").await);
        let first_is_next = tried.last() == Some(all[1].id());
        assert_eq!(attempt(if first_is_next { "internal" } else { "a" }).await, !first_is_next);
    }
    (pool, replicas)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_fails_more_often_than_the_others_is_left_alone_for_a_while() {
    let context = caller();
    let (pool, replicas) = one_that_fails_now_and_then(&context).await;
    let all = pool.replicas();
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "not compared yet");
    tokio::time::advance(OutlierConfig::default().interval).await;
    assert_eq!(spread(&pool, &replicas).await, [0.0, 20.0]);
    assert_eq!(metric(&context, "weft_rpc_client_ejected{"), 1.0);
    assert_eq!(metric(&context, "weft_rpc_client_breakers_open{"), 0.0);
    pool.set_fitness(&all[1], Fitness::Ill);
    assert_eq!(spread(&pool, &replicas).await, [20.0, 0.0], "where no other is well, it is better than none");
    pool.set_fitness(&all[1], Fitness::Fit);
    tokio::time::advance(OutlierConfig::default().ejection).await;
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "its time is over");
    assert_eq!(metric(&context, "weft_rpc_client_ejected{"), 0.0);
    assert_eq!(metric(&context, "weft_rpc_client_ejections_total{"), 1.0);
}

/// In a rolling restart the first replica, which cut its calls, is still left alone when the second one goes.
#[tokio::test(start_paused = true)]
async fn one_that_is_left_alone_is_used_rather_than_one_that_may_be_gone() {
    let (pool, replicas) = one_that_fails_now_and_then(&caller()).await;
    tokio::time::advance(OutlierConfig::default().interval).await;
    assert_eq!(spread(&pool, &replicas).await, [0.0, 20.0]);
    replicas[1].connector.cut();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(spread(&pool, &replicas).await, [20.0, 0.0]);
}

/// The first replica was away, and was looked at.
fn returns(pool: &Pool) {
    let first = &pool.replicas()[0];
    pool.set_fitness(first, Fitness::Ill);
    pool.set_fitness(first, Fitness::Fit);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_away_is_not_left_alone_for_what_was_before() {
    let context = caller();
    let (pool, replicas) = one_that_fails_now_and_then(&context).await;
    returns(&pool);
    tokio::time::advance(OutlierConfig::default().interval).await;
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "it is not judged for it");
    let (pool, replicas) = one_that_fails_now_and_then(&context).await;
    tokio::time::advance(OutlierConfig::default().interval).await;
    assert_eq!(spread(&pool, &replicas).await, [0.0, 20.0]);
    returns(&pool);
    assert!(spread(&pool, &replicas).await.iter().all(|count| *count > 0.0), "it is no longer left alone");
    assert_eq!(metric(&context, "weft_rpc_client_ejected{"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn attempts_of_one_call_go_to_one_replica_after_another() {
    let (pool, replicas) = pool().await;
    for _ in 0..10 {
        let before = [0, 1].map(|which| answered(&replicas[which]));
        let tried = Tried::default();
        for _ in 0..2 {
            let mut request = tonic::Request::new(encode("a"));
            request.extensions_mut().insert(tried.clone());
            Client::new(pool.outgoing()).encode(request).await.unwrap();
        }
        assert_eq!([0, 1].map(|which| answered(&replicas[which]) - before[which]), [1.0, 1.0]);
    }
}
