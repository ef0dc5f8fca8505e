//! Peers that are down, die, come back, or say nothing.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};
use weft_runtime::{
    client::{self, ClientConfig, Target},
    pipe::pipe,
    status,
};

use crate::support::{Client, STALL, Served, bare_server, caller, encode, outgoing, scripts, text};

fn assert_unreachable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status::reason_of(status).as_deref(), Some("UNREACHABLE"), "{status:?}");
    assert!(status.message().contains("tokenizer"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_down_is_unavailable_at_once_and_served_when_it_is_back() {
    let served = Served::new().await;
    let mut client = served.client();
    served.connector.refuse(true);
    let begun = Instant::now();
    assert_unreachable(&client.encode(encode("a")).await.unwrap_err());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    served.connector.refuse(false);
    client.encode(encode("a")).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_unavailable_by_its_address() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: http::Uri = format!("http://127.0.0.1:{port}").parse().unwrap();
    let outgoing =
        client::connect(&caller(), "tokenizer", Target::Uri(address), &ClientConfig::default()).unwrap();
    let status = Client::new(outgoing).encode(encode("a")).await.unwrap_err();
    assert_unreachable(&status);
    assert!(status.message().contains(&format!("127.0.0.1:{port}")), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_killed_in_mid_stream_is_unavailable_at_once_and_its_successor_serves() {
    let served = Served::new().await;
    let mut client = served.client();
    let mut stream = client.decode_stream(scripts(&[STALL])).await.unwrap().into_inner();
    text(&mut stream).await;
    let begun = Instant::now();
    served.running.abort();
    assert_unreachable(&stream.message().await.unwrap_err());
    assert_unreachable(&client.encode(encode("a")).await.unwrap_err());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let _again = served.again().await;
    client.encode(encode("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_cable_breaks_the_calls_on_it_and_the_next_ones_take_another() {
    let served = Served::new().await;
    let mut client = served.client();
    let mut stream = client.decode_stream(scripts(&[STALL])).await.unwrap().into_inner();
    text(&mut stream).await;
    served.connector.cut();
    assert_unreachable(&stream.message().await.unwrap_err());
    client.encode(encode("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_died_without_a_word_is_found_by_its_silence() {
    // The connection stands, and nobody is there.
    let (connector, _incoming) = pipe();
    let begun = Instant::now();
    let mut client = Client::new(outgoing(&connector, &ClientConfig::default()));
    assert_unreachable(&client.encode(encode("a")).await.unwrap_err());
    assert!(begun.elapsed() <= Duration::from_secs(16), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_connection_share_one_attempt_and_its_timeout() {
    let (connector, _incoming) = pipe();
    let folder = tempfile::tempdir().unwrap();
    // Shaking hands with nobody never ends by itself, as with a machine that swallows packets.
    let config = ClientConfig { tls: Some(crate::tls::trust(folder.path())), ..ClientConfig::default() };
    let client = Client::new(outgoing(&connector, &config));
    let begun = Instant::now();
    let calls = (0..32).map(|_| {
        let mut client = client.clone();
        async move { client.encode(encode("a")).await.unwrap_err() }
    });
    for status in join_all(calls).await {
        assert_unreachable(&status);
        assert!(status.message().contains("no connection within 800ms"), "{status:?}");
    }
    assert_eq!(begun.elapsed().as_millis(), 800);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_during_a_drain_costs_no_call() {
    let mut old = Served::new().await;
    let mut client = old.client();
    client.encode(encode("a")).await.unwrap();
    old.stop();
    let incoming = old.connector.listen();
    old.running.await.unwrap().unwrap();
    bare_server(incoming);
    for _ in 0..3 {
        client.encode(encode("a")).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_peer_says_reaches_the_caller_and_a_bare_internal_gets_a_name() {
    let (connector, incoming) = pipe();
    bare_server(incoming);
    let mut client = Client::new(outgoing(&connector, &ClientConfig::default()));
    let status = client.encode(encode("bare internal")).await.unwrap_err();
    assert_eq!((status.code(), status::reason_of(&status).as_deref()), (Code::Internal, Some("PEER")));
    assert_eq!(status.message(), "tokenizer: made by something else");
    let cancelled = client.encode(encode("cancelled")).await.unwrap_err();
    assert_eq!((cancelled.code(), cancelled.message()), (Code::Cancelled, "on purpose"));
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in ["/path", "127.0.0.1:80", "ftp://host:21"] {
        let target = Target::Uri(address.parse().unwrap());
        let error = client::connect(&caller(), "tokenizer", target, &ClientConfig::default()).unwrap_err();
        assert!(error.to_string().contains("must be http://host:port or https://host:port"), "{error}");
    }
}
