//! Chat completions: whole, streamed, several at once.

use http::StatusCode;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use weft_proto::common::v1::FinishReason;
use weft_runtime::Tasks;

use super::client::{CHAT, answered, post, question, send, words_of};
use crate::{
    doubles::inference::MODEL,
    front::{Front, quiet},
};

#[tokio::test(start_paused = true)]
async fn a_chat_completion_is_one_answer() {
    let front = Front::new().await;
    let mut reply = answered(&front, &question(json!({})), &["I", " am", " fine", "."]).await;
    assert_eq!((reply.status(), reply.header("content-type")), (StatusCode::OK, "application/json"));
    assert!(reply.header("server-timing").contains("total;dur="));
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
