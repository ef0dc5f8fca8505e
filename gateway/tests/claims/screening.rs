//! Nothing reaches the model or the caller that the filter has not cleared.

use futures::FutureExt as _;
use weft_proto::{
    common::v1::{ChatMessage, FinishReason, Role},
    gateway::v1::{ChatRequest, GenerationOptions},
};

use crate::{
    doubles::safety::PLACEHOLDER,
    front::{Front, ask, ask_with, quiet},
};

#[tokio::test(start_paused = true)]
async fn generation_begins_before_the_verdict_and_nothing_leaves_before_it() {
    let front = Front::new().await;
    front.safety.hold_verdicts(true);
    let mut asking = front.asking(ask("hello"));
    let mut call = front.inference.call().await;
    call.start().await;
    call.tokens(&[front.tokenizer.id("a long answer, ready to leave")]).await;
    quiet().await;
    assert!((&mut asking).now_or_never().is_none(), "something left before the verdict");
    front.safety.hold_verdicts(false);
    let mut answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.text(6).await, "a long answer, ready ");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_prompt_is_an_answer_and_its_generation_is_dropped_unseen() {
    let front = Front::new().await;
    front.safety.hold_verdicts(true);
    let asking = front.asking(ask("build a BOMB for me"));
    let mut call = front.inference.call().await;
    call.start().await;
    front.safety.hold_verdicts(false);
    let whole = asking.await.unwrap().unwrap().whole().await;
    call.dropped().await;
    assert_eq!((whole.text.as_str(), whole.started.prompt_tokens), ("", 5));
    assert_eq!(whole.finished.reason(), FinishReason::ContentFilter);
    assert_eq!(whole.finished.blocked_prompt, Some(true));
    assert_eq!(whole.finished.safety_findings["test.bomb"], 1);
    assert_eq!(whole.finished.usage.unwrap().completion_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn with_verdict_first_inference_hears_of_a_prompt_once_it_is_cleared() {
    let front = Front::with("[safety_filter]\nverdict_first = true").await;
    front.safety.hold_verdicts(true);
    let asking = front.asking(ask("I am NAME, who are you"));
    quiet().await;
    assert!(front.inference.call().now_or_never().is_none(), "it began before the verdict");
    front.safety.hold_verdicts(false);
    let mut call = front.inference.call().await;
    call.start().await;
    call.end().await;
    assert_eq!(asking.await.unwrap().unwrap().whole().await.finished.safety_findings["test.name"], 1);
    assert_eq!(front.tokenizer.encoded().last().unwrap(), &format!("I am {PLACEHOLDER}, who are you"));

    let blocked = front.asking(ask("build a BOMB for me")).await.unwrap().unwrap().whole().await;
    assert_eq!(blocked.finished.blocked_prompt, Some(true));
    assert!(front.inference.call().now_or_never().is_none(), "a blocked prompt reached inference");
}

#[tokio::test(start_paused = true)]
async fn the_model_sees_what_is_left_of_a_prompt_that_is_redacted() {
    let front = Front::new().await;
    front.safety.hold_verdicts(true);
    let asking = front.asking(ask("I am NAME, who are you"));
    let mut early = front.inference.call().await;
    early.start().await;
    front.safety.hold_verdicts(false);
    let mut call = front.inference.call().await;
    early.dropped().await;
    call.start().await;
    call.end().await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!(front.tokenizer.encoded().last().unwrap(), &format!("I am {PLACEHOLDER}, who are you"));
    assert_eq!(whole.finished.safety_findings["test.name"], 1);
}

fn turns(contents: &[&str]) -> ChatRequest {
    let message = |content: &&str| ChatMessage {
        role: Role::User.into(),
        content: (*content).to_owned(),
        ..ChatMessage::default()
    };
    ChatRequest { messages: contents.iter().map(message).collect(), ..ChatRequest::default() }
}

#[tokio::test(start_paused = true)]
async fn each_message_is_redacted_in_its_own_place() {
    let front = Front::new().await;
    front.safety.hold_verdicts(true);
    let asking = front.asking(turns(&["NAME here", "and", "NAME and NAME there"]));
    let early = front.inference.call().await;
    front.safety.hold_verdicts(false);
    let mut call = front.inference.call().await;
    early.dropped().await;
    let expected = format!("{PLACEHOLDER} here|and|{PLACEHOLDER} and {PLACEHOLDER} there");
    assert_eq!(front.tokenizer.encoded()[1], expected);
    call.start().await;
    call.end().await;
    assert_eq!(asking.await.unwrap().unwrap().whole().await.finished.safety_findings["test.name"], 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_spread_over_messages_cannot_be_redacted_and_is_blocked() {
    let front = Front::new().await;
    let whole = front.chat(turns(&["my KEY", "REST of it"])).await.unwrap().whole().await;
    assert_eq!(
        (whole.finished.reason(), whole.finished.blocked_prompt),
        (FinishReason::ContentFilter, Some(true))
    );
    assert_eq!(whole.finished.safety_findings["test.key"], 1);
}

#[tokio::test(start_paused = true)]
async fn names_tools_and_calls_are_screened_too() {
    use weft_proto::common::v1::{Tool, ToolCall};
    let front = Front::new().await;
    let mut in_tool = ask("hi");
    in_tool.tools = vec![Tool {
        name: "search".to_owned(),
        description: "finds a BOMB".to_owned(),
        parameters_json_schema: "{}".to_owned(),
    }];
    let mut in_call = ask("hi");
    in_call.messages.push(ChatMessage {
        role: Role::Assistant.into(),
        tool_calls: vec![ToolCall {
            id: "1".to_owned(),
            name: "search".to_owned(),
            arguments_json: "{\"q\": \"BOMB\"}".to_owned(),
        }],
        ..ChatMessage::default()
    });
    let mut in_name = ask("hi");
    in_name.messages[0].name = Some("BOMB".to_owned());
    for request in [in_tool, in_call, in_name] {
        let whole = front.chat(request).await.unwrap().whole().await;
        assert_eq!(whole.finished.blocked_prompt, Some(true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flag_is_reported_and_the_answer_goes_on() {
    let front = Front::new().await;
    let asking = front.asking(ask("a MILD thing"));
    let mut call = front.inference.call().await;
    call.start().await;
    call.tokens(&[front.tokenizer.id("also MILD")]).await;
    call.end().await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!((whole.text.as_str(), whole.finished.safety_findings["test.mild"]), ("also MILD", 2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_cut_where_the_filter_blocks_and_the_generation_ends() {
    let front = Front::new().await;
    let options = GenerationOptions { top_logprobs: Some(0), ..GenerationOptions::default() };
    let asking = front.asking(ask_with("hi", options));
    let mut call = front.inference.call().await;
    call.start().await;
    let ids = ["take two", " wires and a", " BO", "MB", " is made of"].map(|word| front.tokenizer.id(word));
    for id in ids {
        call.tokens(&[id]).await;
    }
    let whole = asking.await.unwrap().unwrap().whole().await;
    call.dropped().await;
    assert_eq!(whole.text, "take two wires and a ");
    assert_eq!(
        (whole.finished.reason(), whole.finished.blocked_prompt),
        (FinishReason::ContentFilter, Some(false))
    );
    assert_eq!(whole.finished.safety_findings["test.bomb"], 1);
    let shown: Vec<u32> = whole.tokens.iter().map(|token| token.id).collect();
    assert!(ids[..2].starts_with(&shown), "tokens of blocked text are shown: {shown:?}");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_redacted_text_are_not_shown() {
    let front = Front::new().await;
    let options = GenerationOptions { top_logprobs: Some(0), ..GenerationOptions::default() };
    let asking = front.asking(ask_with("hi", options));
    let mut call = front.inference.call().await;
    call.start().await;
    let words = ["it was", " a", " NA", "ME", " who", " did", " it"];
    let ids = words.map(|word| front.tokenizer.id(word));
    for id in ids {
        call.tokens(&[id]).await;
    }
    call.end().await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!(whole.text, format!("it was a {PLACEHOLDER} who did it"));
    let shown: Vec<u32> = whole.tokens.iter().map(|token| token.id).collect();
    assert!(!shown.contains(&ids[2]) && !shown.contains(&ids[3]), "{shown:?}");
    assert!(shown.contains(&ids[0]) && shown.contains(&ids[5]) && shown.contains(&ids[6]), "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_the_callers_or_else_the_gateways() {
    let front = Front::with("[safety_filter]\ndefault_policy = \"strict\"").await;
    for (asked, expected) in [(None, "strict"), (Some("default".to_owned()), "default")] {
        let options = GenerationOptions { safety_policy: asked, ..GenerationOptions::default() };
        let asking = front.asking(ask_with("hi", options));
        let mut call = front.inference.call().await;
        call.start().await;
        call.tokens(&[front.tokenizer.id("hello")]).await;
        call.end().await;
        asking.await.unwrap().unwrap().whole().await;
        assert_eq!(front.safety.asked().split_off(front.safety.asked().len() - 2), [expected, expected]);
    }
}
