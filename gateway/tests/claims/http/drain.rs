//! A gateway that is told to stop: nobody is cut off, and everybody goes elsewhere.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;
use weft_runtime::{RuntimeConfig, admin, drain::DrainConfig, pipe::Pipe};

use super::client::{CHAT, post, question, send, words_of};
use crate::front::{Front, More, quiet};

const ANNOUNCE: Duration = Duration::from_secs(2);

async fn front() -> Front {
    let drain = DrainConfig { announce: ANNOUNCE, limit: Duration::from_secs(60) };
    let front = Front::within(RuntimeConfig { drain, ..RuntimeConfig::default() }, "", More::default());
    front.gateway.context.health.serving().await;
    front
}

/// Asks for the models on a connection that stays open, as far as the caller is concerned.
async fn models(connection: &mut Pipe) -> String {
    connection.write_all(b"GET /v1/models HTTP/1.1\r\nhost: weft\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 16 * 1024];
    let read = connection.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn ready(front: &Front) -> StatusCode {
    let request = Request::get("/readyz").body(Body::empty()).unwrap();
    admin::router(&front.gateway.context).oneshot(request).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_whole_while_callers_are_sent_elsewhere() {
    let mut front = front().await;
    let (mut used, mut idle) = (front.http.connect().unwrap(), front.http.connect().unwrap());
    for connection in [&mut used, &mut idle] {
        assert!(!models(connection).await.contains("connection: close"));
    }
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        words_of(&front, &mut call, &["once upon a time"]).await;
        call
    };
    let body = question(json!({ "stream": true }));
    let (mut stream, mut call) = tokio::join!(send(&front, post(CHAT, &body)), play);
    assert_eq!(ready(&front).await, StatusCode::OK);

    front.gateway.stop();
    quiet().await;
    assert_eq!(ready(&front).await, StatusCode::SERVICE_UNAVAILABLE);
    // Balancers have yet to see it: calls are taken, on old connections and new ones, each for the last time.
    let mut late = front.http.connect().unwrap();
    for connection in [&mut used, &mut late] {
        let answer = models(connection).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close"),
            "{answer}"
        );
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0, "the connection is closed behind it");
    }

    tokio::time::sleep(ANNOUNCE).await;
    let refused = front.http.connect().map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "nothing is under way on it");
    words_of(&front, &mut call, &[" there was", " a king"]).await;
    call.end().await;
    let events = stream.events().await;
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(events.concat().contains("king"), "{events:?}");
    front.gateway.ended().await.unwrap();
}
