//! Facts 1, 2 and 14.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use weft_proto::tokenizer::v1::GetTokenizerInfoRequest;
use weft_runtime::{Deadline, client::ClientConfig, pipe::pipe, status};

use crate::support::{
    Client, FLOOD, STALL, Served, bare_client, bare_server, encode, outgoing, scripts, text,
};

fn with_deadline<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    Deadline::after(left).spend(&mut request);
    request
}

/// Fact 1, on the server: tonic's timeout covers only the time to the headers.
#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_after_its_first_message_ends_at_its_deadline() {
    let served = Served::new().await;
    let begun = Instant::now();
    let mut request = Request::new(scripts(&[STALL]));
    // As a client without a clock of its own sends it.
    request.metadata_mut().insert("grpc-timeout", "2S".parse().unwrap());
    let mut stream = served.client().decode_stream(request).await.unwrap().into_inner();
    assert_eq!(text(&mut stream).await, "text");
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status::reason_of(&status).as_deref(), Some("DEADLINE"));
    assert_eq!(begun.elapsed().as_secs(), 2);
}

/// Fact 1, on the server: a response is not even polled while its reader has no room for more.
#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_reading_holds_its_call_no_longer_than_its_deadline() {
    let served = Served::new().await;
    let mut request = Request::new(scripts(&[FLOOD]));
    request.metadata_mut().insert("grpc-timeout", "2S".parse().unwrap());
    let stream = bare_client(&served.connector).decode_stream(request).await.unwrap();
    let ended = || served.context.metrics.encode().contains("weft_rpc_server_calls_total");
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert!(!ended());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(ended());
    drop(stream);
}

/// Fact 1, on the client: the peer may not look at the clock at all.
#[tokio::test(start_paused = true)]
async fn a_client_gives_up_on_a_stream_whose_server_does_not() {
    let (connector, incoming) = pipe();
    bare_server(incoming);
    let begun = Instant::now();
    let mut client = Client::new(outgoing(&connector, &ClientConfig::default()));
    let request = with_deadline(scripts(&[STALL]), Duration::from_secs(3));
    let mut stream = client.decode_stream(request).await.unwrap().into_inner();
    assert_eq!(text(&mut stream).await, "text");
    assert_eq!(stream.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(begun.elapsed().as_secs(), 3);
}

/// Fact 2: tonic reports an expired timeout as `CANCELLED`.
#[tokio::test(start_paused = true)]
async fn a_peer_that_says_cancelled_when_time_is_up_means_deadline_exceeded() {
    let (connector, incoming) = pipe();
    bare_server(incoming);
    let mut client = Client::new(outgoing(&connector, &ClientConfig::default()));
    let late =
        client.encode(with_deadline(encode("cancelled in time"), Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let early = client.encode(with_deadline(encode("cancelled"), Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(early.code(), Code::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_headers_ends_at_its_deadline_too() {
    let served = Served::new().await;
    let begun = Instant::now();
    let status =
        served.client().encode(with_deadline(encode("wait"), Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // The inner hop gave up first, by the margin that it was not given.
    assert_eq!(begun.elapsed().as_millis(), 990);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_nothing_left_is_not_sent() {
    let served = Served::new().await;
    let status = served.client().encode(with_deadline(encode("a"), Duration::ZERO)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(!served.context.metrics.encode().contains("weft_rpc_server_calls_total"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_has_a_default_a_cap_and_a_margin_for_the_inner_hop() {
    let served = Served::new().await;
    let mut client = served.client();
    let mut left = async |request: Request<GetTokenizerInfoRequest>| {
        client.get_tokenizer_info(request).await.unwrap().into_inner().vocabulary_size
    };
    assert_eq!(left(Request::new(GetTokenizerInfoRequest {})).await, 120_000);
    assert_eq!(left(with_deadline(GetTokenizerInfoRequest {}, Duration::from_secs(1))).await, 990);
    let mut greedy = Request::new(GetTokenizerInfoRequest {});
    greedy.metadata_mut().insert("grpc-timeout", "99999999H".parse().unwrap());
    assert_eq!(left(greedy).await, 600_000);
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_by_name() {
    let served = Served::new().await;
    let mut request = Request::new(encode("a"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = served.client().encode(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "grpc-timeout");
    assert!(violations[0].description.starts_with("is \"soon\"; must be"), "{violations:?}");
}

/// Fact 14: with a real socket the paused clock would jump while the call is on its way.
#[tokio::test(start_paused = true)]
async fn calls_over_a_pipe_take_no_time_on_a_paused_clock() {
    let served = Served::new().await;
    let begun = Instant::now();
    for _ in 0..50 {
        served.client().encode(encode("a")).await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
