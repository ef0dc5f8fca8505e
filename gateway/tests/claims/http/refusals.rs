//! What is refused, and how a call fails.

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tonic::Status;

use super::client::{CHAT, COMPLETE, answered, get, post, question, send, words_of};
use crate::{
    doubles::inference::MODEL,
    front::{Front, ask, quiet},
};

#[tokio::test(start_paused = true)]
async fn every_problem_of_a_request_is_named_at_once_in_openais_shape() {
    let front = Front::new().await;
    let body = question(json!({
        "temperature": 200, "top_p": "all", "functions": [], "stop": ["a", ""], "hop": 1, "user": "u",
        "tools": [{ "type": "function", "function": { "name": "" } }],
    }));
    let mut reply = send(&front, post(CHAT, &body)).await;
    assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
    let error = reply.error().await;
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!("top_p")));
    let message = error["message"].as_str().unwrap();
    for problem in [
        "`top_p` is \"all\"; must be a number",
        "`functions` is not served: use `tools`",
        "`hop` is no field that is known here",
        "`temperature` is 200; must be from 0 to 100",
        "`stop[1]` has 0 bytes",
        "`tools[0].function.name` is empty",
    ] {
        assert!(message.contains(problem), "{problem}\n{message}");
    }
    assert!(!message.contains("options") && !message.contains("user"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_with_the_reason() {
    let front = Front::new().await;
    let plain = Request::post(CHAT).header("host", "weft").header("content-type", "text/plain");
    for (request, status, word) in [
        (post(CHAT, "{"), StatusCode::BAD_REQUEST, "`body` is not JSON: EOF"),
        (post(CHAT, "[1, 2]"), StatusCode::BAD_REQUEST, "`body` is a list of 2; must be a JSON object"),
        (post(CHAT, "\u{fffd}"), StatusCode::BAD_REQUEST, "`body` is not JSON"),
        (plain.body(Full::from("{}")).unwrap(), StatusCode::BAD_REQUEST, "must be application/json"),
        (post(CHAT, &"x".repeat(5 << 20)), StatusCode::PAYLOAD_TOO_LARGE, "server.max_message_bytes"),
        (post("/v1/chat", "{}"), StatusCode::NOT_FOUND, "there is no POST /v1/chat here"),
        (get(CHAT), StatusCode::METHOD_NOT_ALLOWED, "cannot be called with GET"),
        (get("/v1/models/other"), StatusCode::NOT_FOUND, "this gateway serves scripted"),
    ] {
        let mut reply = send(&front, request).await;
        assert_eq!(reply.status(), status, "{word}");
        let message = reply.error().await["message"].as_str().unwrap().to_owned();
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_no_prompt_is_refused_by_its_field() {
    let front = Front::new().await;
    for (prompt, word) in [
        (json!(3), "`prompt` is 3; must be a string, a list of strings, a list of token ids"),
        (json!(["a", 1]), "`prompt` is a list of 2; must be a string"),
        (json!([[-1]]), "must be a string, a list of strings"),
        (json!(""), "`prompt` is empty"),
        (json!(null), "`prompt` is missing"),
    ] {
        let body = json!({ "model": MODEL, "prompt": prompt }).to_string();
        let mut reply = send(&front, post(COMPLETE, &body)).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
        let error = reply.error().await;
        assert!(error["message"].as_str().unwrap().contains(word), "{word}: {error}");
        assert_eq!(error["param"], "prompt");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_stream_with_an_event_and_an_answer_with_504() {
    let front = Front::new().await;
    let mut request = post(CHAT, &question(json!({ "stream": true })));
    request.headers_mut().insert("x-request-timeout", "2.5".parse().unwrap());
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        words_of(&front, &mut call, &["one", " two", " three"]).await;
        call
    };
    let (mut reply, call) = tokio::join!(send(&front, request), play);
    let events = reply.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(
        (&last["error"]["type"], &last["error"]["code"]),
        (&json!("server_error"), &json!("deadline"))
    );
    call.dropped().await;

    let mut request = post(CHAT, &question(json!({})));
    request.headers_mut().insert("x-request-timeout", "1".parse().unwrap());
    let mut reply = send(&front, request).await;
    assert_eq!(reply.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(reply.error().await["code"], "deadline");

    let mut request = post(CHAT, &question(json!({})));
    request.headers_mut().insert("x-request-timeout", "soon".parse().unwrap());
    let mut reply = send(&front, request).await;
    assert_eq!(
        (reply.status(), reply.error().await["param"].clone()),
        (StatusCode::BAD_REQUEST, json!("x-request-timeout"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_the_middle_of_a_stream_is_its_last_event() {
    let front = Front::new().await;
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        words_of(&front, &mut call, &["one", " two"]).await;
        quiet().await;
        call.fail(Status::resource_exhausted("no blocks")).await;
    };
    let body = question(json!({ "stream": true }));
    let (mut reply, ()) = tokio::join!(send(&front, post(CHAT, &body)), play);
    let events = reply.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "rate_limit_error", "{events:?}");
    assert!(last["error"]["message"].as_str().unwrap().contains("no blocks"));
}

#[tokio::test(start_paused = true)]
async fn both_apis_share_one_admission_and_a_refusal_says_when_to_come_back() {
    let front = Front::with("[admission]\nmax_in_flight = 1\nretry_after = \"3s\"").await;
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let answer = asking.await.unwrap().unwrap();
    let mut reply = send(&front, post(CHAT, &question(json!({})))).await;
    assert_eq!((reply.status(), reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "3"));
    assert_eq!(reply.error().await["code"], "gateway_full");
    drop((answer, call));
    quiet().await;

    let reply = answered(&front, &question(json!({})), &["yes"]).await;
    assert_eq!(reply.status(), StatusCode::OK);
    quiet().await;
    let metrics = front.gateway.context.metrics.encode();
    for line in [
        "weft_gateway_in_flight 0\n",
        "weft_rpc_server_calls_total{method=\"POST /v1/chat/completions\",code=\"OK\"} 1\n",
        "weft_rpc_server_calls_total{method=\"POST /v1/chat/completions\",code=\"UNAVAILABLE\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
