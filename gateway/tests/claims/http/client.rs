//! A plain HTTP/1.1 client, and the part of the model.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::timeout,
};
use weft_runtime::Tasks;

use crate::{
    doubles::inference::{Call, MODEL},
    front::Front,
};

/// Longer than anything here waits, on a clock that jumps.
const PATIENCE: Duration = Duration::from_secs(1_000);

/// An answer on a connection of its own. Dropping it is leaving.
pub(super) struct Reply {
    response: http::Response<Incoming>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    pub(super) async fn text(&mut self) -> String {
        let bytes = self.response.body_mut().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    pub(super) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The error of a refusal.
    pub(super) async fn error(&mut self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        self.json().await["error"].take()
    }

    /// The data of all events.
    pub(super) async fn events(&mut self) -> Vec<String> {
        assert_eq!((self.status(), self.header("content-type")), (StatusCode::OK, "text/event-stream"));
        let text = self.text().await;
        let events =
            text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned());
        events.collect()
    }

    /// The next bytes of a stream.
    pub(super) async fn frame(&mut self) -> String {
        let frame = self.response.body_mut().frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }
}

pub(super) async fn send(front: &Front, request: Request<Full<Bytes>>) -> Reply {
    let io = TokioIo::new(front.http.connect().unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = Tasks::default().spawn("connection", connection);
    Reply { response: sender.send_request(request).await.unwrap(), connection }
}

/// All bytes that come back for bytes that are sent, until the gateway ends the connection.
pub(super) async fn raw(front: &Front, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(front.http.connect().unwrap());
    let (mut answer, mut rest) = (Vec::new(), sent);
    // Who is refused early is not read to the end.
    let send = async { while writer.write_buf(&mut rest).await.is_ok_and(|written| written > 0) {} };
    let read = timeout(PATIENCE, reader.read_to_end(&mut answer));
    let (read, ()) = tokio::join!(read, send);
    // Where bytes were left unread, it ends with a reset.
    let _ = read.unwrap();
    answer
}

/// The same, where text comes back.
pub(super) async fn raw_text(front: &Front, sent: &[u8]) -> String {
    String::from_utf8(raw(front, sent).await).unwrap()
}

/// What a request looks like on HTTP/1.1; the connection ends behind its answer.
pub(super) fn spelled(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: weft\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

pub(super) fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "weft").header("content-type", "application/json");
    request.body(Full::from(body.to_owned())).unwrap()
}

pub(super) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "weft").body(Full::default()).unwrap()
}

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const COMPLETE: &str = "/v1/completions";

/// One question, with more fields.
pub(super) fn question(more: Value) -> String {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "how are you" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// Plays a whole generation of these words.
pub(super) async fn say(front: &Front, words: &[&str]) {
    let mut call = front.inference.call().await;
    call.start().await;
    words_of(front, &mut call, words).await;
    call.end().await;
}

pub(super) async fn words_of(front: &Front, call: &mut Call, words: &[&str]) {
    for word in words {
        call.tokens(&[front.tokenizer.id(word)]).await;
    }
}

/// Asks while the model says these words.
pub(super) async fn answered(front: &Front, body: &str, words: &[&str]) -> Reply {
    tokio::join!(send(front, post(CHAT, body)), say(front, words)).0
}
