//! Bytes that no client sends, and readers that do not read.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::client::{CHAT, post, question, raw_text, send, spelled};
use crate::front::{Front, quiet};

/// The message of a refusal's bytes.
fn message(answer: &str) -> String {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let error: Value = serde_json::from_str(body).unwrap();
    error["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_hung_up_on() {
    let front = Front::new().await;
    for begun in
        ["", "PRI * HTTP/2.0\r\n", "POST /v1/chat/comp", "GET /v1/models HTTP/1.1\r\nhost: weft\r\nx-slow: "]
    {
        let answer = raw_text(&front, begun.as_bytes()).await;
        assert!(!answer.contains("200"), "{begun:?}: {answer}");
    }
    quiet().await;
    let metrics = front.gateway.context.metrics.encode();
    // That of the caller of gRPC is not counted before its first call.
    assert!(metrics.contains("weft_server_connections 0\n"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_refused_before_it_is_whole() {
    let front = Front::new().await;
    let sent = format!("GET /v1/models HTTP/1.1\r\nhost: weft\r\nx-much: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = raw_text(&front, sent.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_http_is_refused() {
    let front = Front::new().await;
    for garbage in ["\u{16}\u{3}\u{1}\u{2}\0", "GET / FTP/1.0\r\n\r\n", "no such thing at all\r\n\r\n"] {
        let answer = raw_text(&front, garbage.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unsaid_length_is_bounded_as_it_comes() {
    let front = Front::new().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: weft\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    // It never says that it ends.
    let answer = raw_text(&front, format!("{head}{}", chunk.repeat(6)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(message(&answer), "the body must have at most 4194304 bytes (server.max_message_bytes)");
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let front = Front::new().await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: weft\r\n{more}\r\n");
    let sent = [
        get("/v1/models/scripted", ""),
        get("/v1/models/other", ""),
        spelled(CHAT, "{}").replace("connection: close\r\n", ""),
        get("/v1/models", "connection: close\r\n"),
    ];
    let answer = raw_text(&front, sent.concat().as_bytes()).await;
    let statuses: Vec<_> =
        answer.split("HTTP/1.1 ").skip(1).map(|answer| answer.split(' ').next().unwrap()).collect();
    assert_eq!(statuses, ["200", "404", "400", "200"], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn two_opinions_about_where_a_body_ends_are_none() {
    let front = Front::new().await;
    let smuggled = "{}GET /v1/models HTTP/1.1\r\nhost: weft\r\n\r\n";
    let sent = spelled(CHAT, smuggled).replace("connection: close", "content-length: 2");
    let answer = raw_text(&front, sent.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn json_that_is_wrong_is_refused_with_its_place() {
    let front = Front::new().await;
    for (body, word) in [
        ("{\"model\": \"m\",\n \"messages\": [}", "`body` is not JSON: expected value at line 2 column 15"),
        ("{\"model\": \"m\", \"model\": \"n\"}", "the field \"model\" is given twice at line 1 column"),
        ("{\"messages\": [{\"role\": \"user\", \"role\": \"system\"}]}", "the field \"role\" is given twice"),
        ("{\"model\": \"m\"} {}", "`body` is not JSON: trailing characters at line 1 column 16"),
        (&"[".repeat(1_000), "`body` is not JSON: recursion limit exceeded at line 1 column 128"),
        ("{\"model\": \"\\ud800\"}", "`body` is not JSON"),
        ("{\"seed\": 1e999}", "`body` is not JSON: number out of range"),
    ] {
        let error = send(&front, post(CHAT, body)).await.error().await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_reading_is_hung_up_on_at_its_deadline() {
    let front = Front::new().await;
    let mut caller = front.http.connect().unwrap();
    let sent = spelled(CHAT, &question(json!({ "stream": true, "ignore_eos": true })))
        .replace("connection: close", "x-request-timeout: 30");
    caller.write_all(sent.as_bytes()).await.unwrap();
    let mut call = front.inference.call().await;
    call.start().await;
    // More than every buffer on the way holds; then nobody takes more.
    let much = front.tokenizer.id(&"much ".repeat(10_000));
    while call.takes(much).await {}
    let metrics = || front.gateway.context.metrics.encode();
    assert!(metrics().contains("weft_gateway_in_flight 1\n"), "it is held up, and not ended: {}", metrics());
    call.dropped().await;
    // It is given a moment to take the status that says why.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(metrics().contains("weft_gateway_in_flight 0\n"), "{}", metrics());
    // What was on its way is still there to be read; nothing follows.
    let mut left = Vec::new();
    caller.read_to_end(&mut left).await.unwrap();
    assert!(!String::from_utf8_lossy(&left).contains("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn a_silence_between_two_calls_is_not_a_caller_that_stops_reading() {
    let front = Front::new().await;
    let mut caller = front.http.connect().unwrap();
    let sent = "GET /v1/models HTTP/1.1\r\nhost: weft\r\nx-request-timeout: 1\r\n\r\n";
    for _ in 0..3 {
        caller.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = vec![0; 16 * 1024];
        let read = caller.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"), "the connection is still there");
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}
