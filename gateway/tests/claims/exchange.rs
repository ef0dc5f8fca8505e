//! One call of the HTTP API on a connection of its own, read to its end.

use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use weft_runtime::Tasks;

use crate::front::Front;

/// What a call is answered.
pub(crate) async fn exchange(
    front: &Front,
    call: http::request::Builder,
    body: &Value,
) -> (StatusCode, Value) {
    let io = TokioIo::new(front.http.connect().unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = Tasks::default().spawn("connection", connection);
    let call = call.header("host", "weft").header("content-type", "application/json");
    let response = sender.send_request(call.body(Full::<Bytes>::from(body.to_string())).unwrap()).await;
    let response = response.unwrap();
    let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
    connection.abort();
    (status, serde_json::from_slice(&body).unwrap())
}
