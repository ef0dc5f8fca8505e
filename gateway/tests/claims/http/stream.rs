//! Event streams, byte by byte: what a reader that knows no client of ours has to understand.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tonic::Status;
use weft_runtime::Tasks;

use super::client::{CHAT, post, question, raw_text, say, spelled, words_of};
use crate::front::{Front, quiet};

/// Text that would break frames, were it not spelled as JSON, or characters, were bytes cut anywhere.
const WORDS: [&str; 7] = ["caf", "é", " 日本", "\n\ndata: [DONE]\n\n", " 🦀", "\u{2028}\r", "end"];

/// The bytes of a body in chunks, each by itself.
fn chunks(body: &str) -> Vec<String> {
    let (mut rest, mut found) = (body, Vec::new());
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(after, "\r\n", "no trailers: HTTP/1.1 clients ask for none");
            return found;
        }
        // A chunk that ends within a character would make this panic.
        found.push(after[..size].to_owned());
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
}

/// The data of events, read as the standard says: lines, of which empty ones end an event.
fn data(stream: &str) -> Vec<String> {
    assert!(stream.ends_with("\n\n"), "the last event is whole: {stream:?}");
    let of_event = |event: &str| {
        assert!(!event.contains(['\n', '\r']), "one line an event, no comments, no other fields: {event:?}");
        event.strip_prefix("data: ").unwrap().to_owned()
    };
    stream.split_terminator("\n\n").map(of_event).collect()
}

fn streamed() -> String {
    question(json!({ "stream": true, "stream_options": { "include_usage": true } }))
}

/// Checks the events of an answer of [`WORDS`].
fn check(mut events: Vec<String>) {
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let usage = chunks.pop().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["completion_tokens"]),
        (&json!([]), &json!(WORDS.len() + 1))
    );
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none_or(Value::is_null)), "{chunks:?}");
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(text.collect::<String>(), WORDS.concat());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test(start_paused = true)]
async fn on_http_1_each_event_is_a_chunk_and_no_text_breaks_it() {
    let front = Front::new().await;
    let sent = spelled(CHAT, &streamed());
    let (answer, ()) = tokio::join!(raw_text(&front, sent.as_bytes()), say(&front, &WORDS));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for line in [
        "content-type: text/event-stream",
        "cache-control: no-cache",
        "x-accel-buffering: no",
        "transfer-encoding: chunked",
        "connection: close",
    ] {
        assert!(head.lines().any(|header| header == line), "{line}\n{head}");
    }
    assert!(!head.contains("grpc-"), "{head}");
    let chunks = chunks(body);
    assert!(chunks.iter().all(|chunk| chunk.ends_with("\n\n")), "{chunks:?}");
    check(data(&chunks.concat()));
}

#[tokio::test(start_paused = true)]
async fn who_takes_trailers_is_told_there_where_the_time_went() {
    let front = Front::new().await;
    let sent =
        spelled(CHAT, &streamed()).replace("connection: close", "te: trailers\r\nconnection: te, close");
    let (answer, ()) = tokio::join!(raw_text(&front, sent.as_bytes()), say(&front, &WORDS));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.lines().any(|header| header == "trailer: server-timing"), "{head}");
    let (chunked, trailers) = body.split_once("\r\n0\r\n").unwrap();
    check(data(&chunks(&format!("{chunked}\r\n0\r\n\r\n")).concat()));
    let timing = trailers.strip_prefix("server-timing: gateway;dur=").unwrap();
    assert!(timing.contains("total;dur=") && timing.ends_with("\r\n\r\n"), "{timing}");
    assert_eq!(trailers.lines().count(), 2, "nothing of gRPC's: {trailers}");
}

#[tokio::test(start_paused = true)]
async fn on_http_2_the_stream_is_the_same_and_ends_without_trailers() {
    let front = Front::new().await;
    let io = TokioIo::new(front.http.connect().unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    let _connection = Tasks::default().spawn("connection", connection);
    let mut request = post(CHAT, &streamed());
    *request.uri_mut() = format!("http://weft{CHAT}").parse().unwrap();
    request.headers_mut().remove("host");
    let asking = async { sender.send_request(request).await.unwrap() };
    let (answer, ()) = tokio::join!(asking, say(&front, &WORDS));
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(!answer.headers().contains_key("transfer-encoding"), "{:?}", answer.headers());
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers(), None, "how it ended was its last event");
    check(data(std::str::from_utf8(&body.to_bytes()).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_is_whole_as_a_stream_and_is_not_said_to_be_done() {
    let front = Front::new().await;
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        words_of(&front, &mut call, &["one", " two"]).await;
        quiet().await;
        call.fail(Status::invalid_argument("a line\nand another")).await;
    };
    let sent = spelled(CHAT, &streamed());
    let (answer, ()) = tokio::join!(raw_text(&front, sent.as_bytes()), play);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let events = data(&chunks(body).concat());
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(last["error"]["message"].as_str().unwrap().contains("a line\nand another"), "{last}");
    assert!(!events.iter().any(|event| event == "[DONE]"), "{events:?}");
}
