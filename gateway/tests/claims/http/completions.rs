//! Completions and embeddings.

use serde_json::{Value, json};

use super::client::{COMPLETE, post, send, words_of};
use crate::{doubles::inference::MODEL, front::Front};

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
