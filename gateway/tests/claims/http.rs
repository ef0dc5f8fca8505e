//! OpenAI's HTTP API, as a plain HTTP/1.1 client sees it.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Status;
use weft_proto::common::v1::FinishReason;
use weft_runtime::Tasks;

use crate::{
    doubles::inference::{Call, MODEL},
    front::{Front, ask, quiet},
};

/// An answer on a connection of its own. Dropping it is leaving.
struct Reply {
    response: http::Response<Incoming>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Reply {
    fn status(&self) -> StatusCode {
        self.response.status()
    }

    fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    async fn text(&mut self) -> String {
        let bytes = self.response.body_mut().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The error of a refusal.
    async fn error(&mut self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        self.json().await["error"].take()
    }

    /// The data of all events.
    async fn events(&mut self) -> Vec<String> {
        assert_eq!((self.status(), self.header("content-type")), (StatusCode::OK, "text/event-stream"));
        let text = self.text().await;
        let events =
            text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned());
        events.collect()
    }

    /// The next bytes of a stream.
    async fn frame(&mut self) -> String {
        let frame = self.response.body_mut().frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }
}

async fn send(front: &Front, request: Request<Full<Bytes>>) -> Reply {
    let io = TokioIo::new(front.http.connect().unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = Tasks::default().spawn("connection", connection);
    Reply { response: sender.send_request(request).await.unwrap(), connection }
}

fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "weft").header("content-type", "application/json");
    request.body(Full::from(body.to_owned())).unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "weft").body(Full::default()).unwrap()
}

const CHAT: &str = "/v1/chat/completions";

/// One question, with more fields.
fn question(more: Value) -> String {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "how are you" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// Plays a whole generation of these words.
async fn say(front: &Front, words: &[&str]) {
    let mut call = front.inference.call().await;
    call.start().await;
    words_of(front, &mut call, words).await;
    call.end().await;
}

async fn words_of(front: &Front, call: &mut Call, words: &[&str]) {
    for word in words {
        call.tokens(&[front.tokenizer.id(word)]).await;
    }
}

/// Asks while the model says these words.
async fn answered(front: &Front, body: &str, words: &[&str]) -> Reply {
    tokio::join!(send(front, post(CHAT, body)), say(front, words)).0
}

#[tokio::test(start_paused = true)]
async fn a_chat_completion_is_one_answer() {
    let front = Front::new().await;
    let mut reply = answered(&front, &question(json!({})), &["I", " am", " fine", "."]).await;
    assert_eq!((reply.status(), reply.header("content-type")), (StatusCode::OK, "application/json"));
    let id = reply.header("x-request-id").to_owned();
    let answer = reply.json().await;
    assert_eq!(answer["id"], format!("chatcmpl-{id}"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(MODEL)));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let message = json!({ "role": "assistant", "content": "I am fine.", "refusal": null });
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" });
    assert_eq!(answer["choices"], json!([choice]));
    let details = json!({ "cached_tokens": 0 });
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "prompt_tokens_details": details });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_who_speaks_then_what_then_why_it_ends() {
    let front = Front::new().await;
    let body = question(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let mut reply = answered(&front, &body, &["I", " am", " fine", "."]).await;
    let mut events = reply.events().await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
    );
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text.concat(), "I am fine.");
    let [.., last, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(
        (&last["choices"][0]["finish_reason"], &last["choices"][0]["delta"]),
        (&json!("stop"), &json!({}))
    );
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(8)));
}

#[tokio::test(start_paused = true)]
async fn text_is_an_event_as_soon_as_it_is_cleared() {
    let front = Front::new().await;
    let body = question(json!({ "stream": true }));
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        call
    };
    let (mut reply, mut call) = tokio::join!(send(&front, post(CHAT, &body)), play);
    assert!(reply.frame().await.contains("assistant"));
    // Enough for what the doubles hold back.
    words_of(&front, &mut call, &["once upon a time there was", " a king"]).await;
    assert!(reply.frame().await.contains("once"), "the call goes on, and its first text is here");
    drop(reply);
    call.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_answer_begins_ends_the_generation() {
    let front = Front::new().await;
    let io = TokioIo::new(front.http.connect().unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(io).await.unwrap();
    let connection = Tasks::default().spawn("connection", connection);
    let body = question(json!({}));
    let asking =
        Tasks::default().spawn("asking", async move { sender.send_request(post(CHAT, &body)).await });
    let mut call = front.inference.call().await;
    call.start().await;
    connection.abort();
    call.dropped().await;
    assert!(asking.await.unwrap().is_err());
    quiet().await;
    let metrics = front.gateway.context.metrics.encode();
    assert!(metrics.contains("weft_gateway_in_flight 0\n"), "{metrics}");
}

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
async fn the_models_are_those_that_are_served() {
    let front = Front::new().await;
    let list = send(&front, get("/v1/models")).await.json().await;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    let one = send(&front, get("/v1/models/scripted")).await.json().await;
    assert_eq!(one, list["data"][0]);
    assert_eq!(
        (&one["object"], &one["max_model_len"], &one["chat"]),
        (&json!("model"), &json!(100), &json!(true))
    );
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

#[tokio::test(start_paused = true)]
async fn what_the_caller_asks_for_reaches_inference() {
    let front = Front::new().await;
    let body = question(json!({
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1, "stop": "never",
        "frequency_penalty": 1, "presence_penalty": -1, "logit_bias": { "5": -100 }, "top_k": 3, "priority": 2,
        "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": "object" } } },
        "metadata": { "a": "b" }, "store": false, "n": 1,
    }));
    let play = async {
        let mut call = front.inference.call().await;
        call.start().await;
        let request = call.request.clone();
        call.finish(FinishReason::Length, None).await;
        request
    };
    let (mut reply, request) = tokio::join!(send(&front, post(CHAT, &body)), play);
    assert_eq!(reply.json().await["choices"][0]["finish_reason"], "length");
    let sampling = request.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(3)));
    assert_eq!((sampling.seed, sampling.logit_bias[&5]), (Some(u64::MAX), -100.0));
    assert_eq!((request.stop.unwrap().max_tokens, request.priority), (Some(7), Some(2)));
    assert!(format!("{:?}", request.constraint).contains(r#"JsonSchema("{\"type\":\"object\"}")"#));
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_name_tokens_by_their_text() {
    let front = Front::new().await;
    let body = question(json!({ "logprobs": true, "top_logprobs": 0 }));
    let answer = answered(&front, &body, &["I", " am"]).await.json().await;
    let first = json!({ "token": "I", "logprob": -0.5, "bytes": [73], "top_logprobs": [] });
    let content = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!(content[0], first);
    assert_eq!((&content[1]["token"], content.as_array().unwrap().len()), (&json!(" am"), 3));
}

fn weather() -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }])
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_model_marks_is_a_tool_call() {
    let front = Front::new().await;
    let words = [
        "Let me see.",
        "<tool_",
        "call>{\"name\": \"weather\", ",
        "\"arguments\": {\"city\": \"Oslo\"}}</tool_call>",
    ];
    let body = question(json!({ "tools": weather() }));
    let answer = answered(&front, &body, &words).await.json().await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Let me see."))
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({ "name": "weather", "arguments": "{\"city\":\"Oslo\"}" }));
    assert_eq!(call["type"], "function");

    let body = question(json!({ "tools": weather(), "stream": true }));
    let events = answered(&front, &body, &words).await.events().await.join("\n");
    assert!(events.contains(r#""tool_calls":[{"index":0,"id":"call_"#), "{events}");
    assert!(!events.contains("<tool_"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_must_be_called_is_called() {
    let front = Front::new().await;
    let choice = json!({ "type": "function", "function": { "name": "weather" } });
    let body = question(json!({ "tools": weather(), "tool_choice": choice }));
    let play = async {
        let mut call = front.inference.call().await;
        assert!(call.request.constraint.is_some());
        call.start().await;
        words_of(&front, &mut call, &["{\"name\":\"weather\",\"arguments\":", "{\"city\":\"Rome\"}}"]).await;
        call.end().await;
    };
    let (mut reply, ()) = tokio::join!(send(&front, post(CHAT, &body)), play);
    let answer = reply.json().await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["tool_calls"][0]["function"]["name"]),
        (&json!(null), &json!("weather"))
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test(start_paused = true)]
async fn a_span_of_an_http_call_is_named_for_its_route() {
    let front = Front::new().await;
    let reply = send(&front, get("/v1/models")).await;
    assert_eq!(reply.header("x-request-id").len(), 32);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let metrics = front.gateway.context.metrics.encode();
    assert!(
        metrics.contains("weft_rpc_server_call_duration_seconds_count{method=\"GET /v1/models\"} 1"),
        "{metrics}"
    );
}

/// Plays two answers whose tokens come mixed; the first meets a stop string early.
async fn say_two(front: &Front) {
    let mut call = front.inference.call().await;
    assert_eq!(call.request.n, Some(2));
    call.start().await;
    for (index, word) in [(1, "one"), (0, "a"), (1, " two"), (0, " b"), (1, " three")] {
        call.tokens_of(index, &[front.tokenizer.id(word)]).await;
    }
    call.end_of(1, 3).await;
    call.end_of(0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn several_answers_are_told_apart_and_add_up() {
    let front = Front::new().await;
    let body = question(json!({ "n": 2 }));
    let (mut reply, ()) = tokio::join!(send(&front, post(CHAT, &body)), say_two(&front));
    let answer = reply.json().await;
    let texts: Vec<_> =
        answer["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(texts, [&json!("a b"), &json!("one two three")]);
    assert_eq!(
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]),
        (&json!(3), &json!(7))
    );

    let body = question(json!({ "n": 2, "stream": true, "stop": " b" }));
    let (mut reply, ()) = tokio::join!(send(&front, post(CHAT, &body)), say_two(&front));
    let mut events = reply.events().await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut told = [String::new(), String::new()];
    for event in events {
        let choice = serde_json::from_str::<Value>(&event).unwrap()["choices"][0].take();
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        told[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        told[index].push_str(choice["stop_reason"].as_str().map(|_| "|").unwrap_or_default());
    }
    assert_eq!(told, ["a|", "one two three"]);
}

const COMPLETE: &str = "/v1/completions";

#[tokio::test(start_paused = true)]
async fn prompts_of_text_and_of_tokens_are_continued_each_by_itself() {
    let front = Front::new().await;
    let ids = ["to", " be"].map(|word| front.tokenizer.id(word));
    for (prompt, sent) in [(json!([ids]), ids.to_vec()), (json!(ids), ids.to_vec())] {
        let body = json!({ "model": MODEL, "prompt": prompt, "echo": true, "max_tokens": 3 }).to_string();
        let play = async {
            let mut call = front.inference.call().await;
            assert_eq!(call.request.prompt_token_ids, sent);
            call.start().await;
            words_of(&front, &mut call, &[" or", " not"]).await;
            call.end().await;
        };
        let (mut reply, ()) = tokio::join!(send(&front, post(COMPLETE, &body)), play);
        let answer = reply.json().await;
        assert_eq!(answer["object"], "text_completion");
        assert_eq!(answer["choices"][0]["text"], "to be or not");
    }
    let body = json!({ "model": MODEL, "prompt": ["a", "b c"], "n": 1 }).to_string();
    let play = async {
        let (mut one, mut two) = (front.inference.call().await, front.inference.call().await);
        if one.request.prompt_token_ids.len() > two.request.prompt_token_ids.len() {
            std::mem::swap(&mut one, &mut two);
        }
        assert_eq!(one.request.stop.as_ref().unwrap().max_tokens, Some(16), "OpenAI's default");
        for (mut call, word) in [(one, "first"), (two, "second")] {
            call.start().await;
            words_of(&front, &mut call, &[word]).await;
            call.end().await;
        }
    };
    let (mut reply, ()) = tokio::join!(send(&front, post(COMPLETE, &body)), play);
    let choices = reply.json().await["choices"].take();
    let told: Vec<_> =
        choices.as_array().unwrap().iter().map(|choice| (&choice["index"], &choice["text"])).collect();
    assert_eq!(told, [(&json!(0), &json!("first")), (&json!(1), &json!("second"))]);
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
async fn embeddings_are_numbers_or_their_bytes() {
    let front = Front::new().await;
    let body = |more: Value| {
        json!({ "model": MODEL, "input": ["one", "one two"], "encoding_format": more }).to_string()
    };
    let numbers = send(&front, post("/v1/embeddings", &body(json!("float")))).await.json().await;
    assert_eq!(numbers["data"][1], json!({ "object": "embedding", "index": 1, "embedding": [2.0] }));
    assert_eq!(numbers["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
    let bytes = send(&front, post("/v1/embeddings", &body(json!("base64")))).await.json().await;
    assert_eq!(bytes["data"][1]["embedding"], "AAAAQA==");
    let mut wrong = send(&front, post("/v1/embeddings", &body(json!("hex")))).await;
    assert_eq!(wrong.error().await["param"], "encoding_format");
}
