//! What is served, and under which names.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::client::{CHAT, get, post, question, send};
use crate::{doubles::inference::MODEL, front::Front};

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

/// Asks for a model by this name: what inference is told of an adapter, and which model the answer names.
async fn through(front: &Front, name: &str) -> (Option<String>, Value) {
    let play = async {
        let mut call = front.inference.call().await;
        let adapter = call.request.adapter_id.clone();
        call.start().await;
        call.end().await;
        adapter
    };
    let body = question(json!({ "model": name }));
    let (mut reply, adapter) = tokio::join!(send(front, post(CHAT, &body)), play);
    (adapter, reply.json().await["model"].take())
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_a_model_under_its_models_name_or_its_own() {
    let front = Front::new().await;
    front.inference.set_adapters(&["legal", "medical/v2"]);
    let list = send(&front, get("/v1/models")).await.json().await;
    let listed = |index: usize| (&list["data"][index]["id"], &list["data"][index]["parent"]);
    assert_eq!(listed(0), (&json!(MODEL), &json!(null)));
    assert_eq!(listed(1), (&json!("scripted:legal"), &json!(MODEL)));
    assert_eq!(listed(2), (&json!("scripted:medical/v2"), &json!(MODEL)));
    for name in ["scripted:medical/v2", "medical/v2"] {
        let one = send(&front, get(&format!("/v1/models/{name}"))).await.json().await;
        assert_eq!(one, list["data"][2], "{name}");
        assert_eq!(through(&front, name).await, (Some("medical/v2".to_owned()), json!(name)));
    }
    assert_eq!(through(&front, MODEL).await, (None, json!(MODEL)));

    front.inference.set_adapters(&["legal", "new"]);
    assert_eq!(
        through(&front, "new").await.0.as_deref(),
        Some("new"),
        "it was loaded after the list was asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_not_found_and_what_is_there_is_told() {
    let front = Front::new().await;
    front.inference.set_adapters(&["legal"]);
    for name in ["gpt-99", "scripted:illegal", "scripted:", "legal:legal"] {
        let mut reply = send(&front, post(CHAT, &question(json!({ "model": name })))).await;
        assert_eq!(reply.status(), StatusCode::NOT_FOUND, "{name}");
        let error = reply.error().await;
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        let message = format!("`model` is {name:?}; this gateway serves scripted, scripted:legal");
        assert_eq!(error["message"], message);
    }
    let body = question(json!({ "model": "scripted:legal", "adapter_id": "medical" }));
    let error = send(&front, post(CHAT, &body)).await.error().await;
    let rule = "`adapter_id` is \"medical\"; must be left out, since `model` names the adapter \"legal\"";
    assert_eq!((&error["message"], &error["param"]), (&json!(rule), &json!("adapter_id")));
}
