//! Fact 9, and what a caller can do wrong.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Service, ServiceExt as _, layer::layer_fn};
use weft_proto::tokenizer::v1::{DecodeRequest, GetTokenizerInfoRequest};
use weft_runtime::{
    BoxError, Deadline, RuntimeConfig, Services, client::ClientConfig, server::Routes, status,
};

use crate::support::{Client, ENCODE, PANIC, STALL, Served, encode, metric, outgoing, scripts, server, text};

/// Fails without a status anywhere in its source chain.
#[derive(Clone)]
struct Broken;

impl Service<http::Request<Body>> for Broken {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        Box::pin(async { Err("the vault is locked".into()) })
    }
}

/// Fact 9: such an error resets the stream instead of answering.
#[tokio::test]
async fn an_error_of_a_layer_that_is_no_status_is_answered_and_hidden() {
    let services = || Services::new().add(server()).layer(layer_fn(|_: Routes| Broken));
    let served = Served::starting(RuntimeConfig::default(), async move { Ok(services()) });
    served.context.health.serving().await;
    let status = served.client().encode(encode("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status::reason_of(&status).as_deref(), Some("INTERNAL"));
    assert!(!status.message().contains("vault"), "{status:?}");
}

#[tokio::test]
async fn a_status_of_a_layer_keeps_its_code() {
    let refuse = layer_fn(|_: Routes| {
        tower::service_fn(async |_| Err::<http::Response<Body>, _>(Status::unauthenticated("no key")))
    });
    let served =
        Served::starting(
            RuntimeConfig::default(),
            async move { Ok(Services::new().add(server()).layer(refuse)) },
        );
    served.context.health.serving().await;
    let status = served.client().encode(encode("a")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "no key"));
}

#[tokio::test]
async fn our_own_fault_is_an_id_to_the_caller() {
    let served = Served::new().await;
    let status = served.client().encode(encode("internal")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let incident = &status.get_details_error_info().unwrap().metadata["incident"];
    assert!(status.message().contains(incident.as_str()));
    assert!(!status.message().contains("torn") && !status.message().contains("sector"), "{status:?}");
}

#[tokio::test]
async fn a_panic_is_one_calls_internal_and_the_connection_lives() {
    let served = Served::new().await;
    let mut client = served.client();
    let mut neighbour = client.decode_stream(scripts(&[0])).await.unwrap().into_inner();
    text(&mut neighbour).await;

    let status = client.encode(encode("panic")).await.unwrap_err();
    assert_eq!((status.code(), status::reason_of(&status).as_deref()), (Code::Internal, Some("INTERNAL")));
    let mut stream = client.decode_stream(scripts(&[PANIC])).await.unwrap().into_inner();
    assert_eq!(text(&mut stream).await, "text");
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Internal);

    client.encode(encode("a")).await.unwrap();
    assert_eq!(metric(&served.context, "weft_server_connections "), 1.0, "nobody had to connect again");
}

/// Sends bytes as the only message of a call.
async fn send(served: &Served, path: &str, bytes: &[u8]) -> Status {
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    send_raw(served, path, framed).await
}

async fn send_raw(served: &Served, path: &str, bytes: Vec<u8>) -> Status {
    let body = Body::new(Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}));
    let request = http::Request::post(format!("/{path}"))
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let response = served.outgoing().oneshot(request).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

#[tokio::test]
async fn what_is_no_message_is_the_callers_mistake() {
    let served = Served::new().await;
    // A length that the message does not have; a text that is not UTF-8.
    for garbage in [&[0x0a, 0xff][..], &[0x0a, 2, 0xc3, 0x28]] {
        let status = send(&served, ENCODE, garbage).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(status::reason_of(&status).as_deref(), Some("UNDECODABLE"));
    }
    for broken in [vec![7, 0, 0, 0, 0], vec![0, 0, 0, 0, 9, 1], vec![1, 0, 0, 0, 1, 1], vec![]] {
        let status = send_raw(&served, ENCODE, broken).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let (ids, _) = (send(&served, ENCODE, &[0x0a, 1, b'a']).await, ());
    assert_eq!(ids.code(), Code::Ok, "the next one is served");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_with_its_size_and_the_limit() {
    let mut config = RuntimeConfig::default();
    config.server.limits.max_message_bytes = 2048;
    let served = Served::with(config).await;
    let status = served.client().encode(encode(&"x".repeat(4096))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status::reason_of(&status).as_deref(), Some("MESSAGE_TOO_LARGE"));
    assert!(
        status.message().contains("4099 bytes; must be at most 2048 (server.max_message_bytes)"),
        "{status:?}"
    );
    served.client().encode(encode("x")).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_too() {
    let served = Served::new().await;
    let config = ClientConfig { max_message_bytes: 1024, ..ClientConfig::default() };
    let mut client = Client::new(outgoing(&served.connector, &config));
    let status =
        client.decode(DecodeRequest { token_ids: vec![2000], ..Default::default() }).await.unwrap_err();
    assert_eq!(
        (status.code(), status::reason_of(&status).as_deref()),
        (Code::ResourceExhausted, Some("MESSAGE_TOO_LARGE"))
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_no_label() {
    let served = Served::new().await;
    for path in ["weft.tokenizer.v1.TokenizerService/Invented", "x/y", "weft.nobody.v1.Nobody/Encode"] {
        assert_eq!(send(&served, path, &[]).await.code(), Code::Unimplemented, "{path}");
    }
    let page = served.context.metrics.encode();
    assert!(!page.contains("Invented") && !page.contains("x/y"), "{page}");
    assert_eq!(
        metric(&served.context, r#"weft_rpc_server_calls_total{method="unknown",code="UNIMPLEMENTED"}"#),
        3.0
    );
}

#[tokio::test]
async fn calls_are_counted_with_the_code_in_their_trailers() {
    let served = Served::new().await;
    let mut client = served.client();
    client.encode(encode("a")).await.unwrap();
    let mut stream = client.decode_stream(scripts(&[crate::support::FAIL])).await.unwrap().into_inner();
    text(&mut stream).await;
    let calls = |method: &str, code: &str| {
        format!(
            r#"weft_rpc_server_calls_total{{method="weft.tokenizer.v1.TokenizerService/{method}",code="{code}"}}"#
        )
    };
    assert!(
        !served.context.metrics.encode().contains(&calls("DecodeStream", "OK")),
        "the headers are not the end"
    );
    stream.message().await.unwrap_err();
    assert_eq!(metric(&served.context, &calls("Encode", "OK")), 1.0);
    assert_eq!(metric(&served.context, &calls("DecodeStream", "DATA_LOSS")), 1.0);
}

#[tokio::test]
async fn a_caller_who_leaves_is_counted_as_cancelled_and_nothing_stays_in_flight() {
    let served = Served::new().await;
    let mut stream = served.client().decode_stream(scripts(&[STALL])).await.unwrap().into_inner();
    text(&mut stream).await;
    let in_flight =
        r#"weft_rpc_server_calls_in_flight{method="weft.tokenizer.v1.TokenizerService/DecodeStream"}"#;
    assert_eq!(metric(&served.context, in_flight), 1.0);
    drop(stream);
    while metric(&served.context, in_flight) > 0.0 {
        tokio::task::yield_now().await;
    }
    let cancelled = r#"weft_rpc_server_calls_total{method="weft.tokenizer.v1.TokenizerService/DecodeStream",code="CANCELLED"}"#;
    assert_eq!(metric(&served.context, cancelled), 1.0);
    served.client().get_tokenizer_info(GetTokenizerInfoRequest {}).await.unwrap();
}

/// A status that does not fit into headers would break the connection under every other call.
#[tokio::test(start_paused = true)]
async fn thousands_of_long_violations_fit_into_the_headers_of_one_answer() {
    let served = Served::new().await;
    let mut client = served.client();
    let status = client.encode(encode("violations")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().ends_with("and 4080 more"), "{status:?}");
    assert!(status.message().contains("must be shorter"), "{status:?}");
    client.encode(encode("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_beyond_the_limit_waits_for_its_turn() {
    let mut config = RuntimeConfig::default();
    config.server.max_connections = 1;
    let served = Served::with(config).await;
    let mut first = served.client();
    first.encode(encode("a")).await.unwrap();

    let mut second = served.client();
    let mut request = tonic::Request::new(encode("a"));
    Deadline::after(Duration::from_secs(1)).spend(&mut request);
    assert_eq!(second.encode(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    drop(first);
    second.encode(encode("a")).await.unwrap();
}
