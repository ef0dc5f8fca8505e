//! Tool calls: marked by the model, or made to happen.

use serde_json::{Value, json};
use weft_proto::common::v1::constraint::Form;

use super::client::{CHAT, answered, post, question, send, words_of};
use crate::front::Front;

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
async fn tools_that_may_be_called_are_called_by_their_schemas_or_once_if_that_is_asked() {
    let front = Front::new().await;
    let mut strict = weather();
    strict[0]["function"]["strict"] = json!(true);
    let once = json!({ "tools": weather(), "parallel_tool_calls": false });
    for (more, held_to) in [
        (json!({ "tools": weather() }), None),
        (json!({ "tools": &strict }), Some("(next call)*")),
        (once, Some("first call SPACE")),
        (json!({ "tools": &strict, "tool_choice": "none" }), None),
    ] {
        let body = question(more);
        let play = async {
            let mut call = front.inference.call().await;
            let form = call.request.constraint.take().and_then(|constraint| constraint.form);
            let grammar = form.map(|form| match form {
                Form::LarkGrammar(text) => text,
                other => panic!("{other:?}"),
            });
            assert_eq!(grammar.is_some(), held_to.is_some(), "{body}");
            assert!(grammar.unwrap_or_default().contains(held_to.unwrap_or_default()), "{body}");
            call.start().await;
            words_of(&front, &mut call, &["So."]).await;
            call.end().await;
        };
        let (mut reply, ()) = tokio::join!(send(&front, post(CHAT, &body)), play);
        assert_eq!(reply.json().await["choices"][0]["message"]["content"], "So.");
    }

    let form = json!({ "type": "json_object" });
    let body = question(json!({ "tools": strict, "response_format": form }));
    let error = send(&front, post(CHAT, &body)).await.error().await;
    assert_eq!(error["param"], "response_format");
}
