//! How an answer comes about.

use futures::future::join_all;
use tonic::Code;
use weft_proto::{
    common::v1::{FinishReason, SamplingParams, StopConditions, Usage},
    gateway::v1::{
        CompleteRequest, GenerationOptions, GetModelRequest, ListModelsRequest, chat_response::Event,
        complete_response,
    },
};

use crate::{
    doubles::{
        inference::{Call, END, MODEL},
        tokenizer::PROMPT_ID,
    },
    front::{Front, ask, ask_with, quiet},
};

/// Plays a whole generation of these words.
async fn say(front: &Front, mut call: Call, words: &[&str]) {
    call.start().await;
    for word in words {
        call.tokens(&[front.tokenizer.id(word)]).await;
    }
    call.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_begins_streams_and_ends() {
    let front = Front::new().await;
    let asking = front.asking(ask("how are you"));
    let call = front.inference.call().await;
    assert_eq!(call.request.prompt_token_ids, [PROMPT_ID; 3]);
    let (answer, ()) = tokio::join!(asking, say(&front, call, &["I", " am", " fine", "."]));
    let whole = answer.unwrap().unwrap().whole().await;
    assert_eq!(whole.text, "I am fine.");
    assert_eq!(
        (whole.started.model.as_str(), whole.started.prompt_tokens, whole.started.seed),
        (MODEL, 3, 42)
    );
    assert_eq!(whole.started.request_id.len(), 32);
    let usage = Usage { prompt_tokens: 3, completion_tokens: 5, cached_prompt_tokens: 0 };
    assert_eq!((whole.finished.reason(), whole.finished.usage), (FinishReason::Stop, Some(usage)));
    assert_eq!((whole.finished.stop_string, whole.finished.blocked_prompt), (None, None));
    assert!(whole.tokens.is_empty(), "log-probabilities that nobody asked for");
}

#[tokio::test(start_paused = true)]
async fn a_completion_goes_the_same_way() {
    let front = Front::new().await;
    let mut client = front.client.clone();
    let request = CompleteRequest { prompt: "to be".to_owned(), ..CompleteRequest::default() };
    let play = async {
        let call = front.inference.call().await;
        say(&front, call, &[" or not"]).await;
    };
    let (answer, ()) = tokio::join!(client.complete(request), play);
    let mut answer = answer.unwrap().into_inner();
    let mut text = String::new();
    while let Some(message) = answer.message().await.unwrap() {
        if let Some(complete_response::Event::Delta(delta)) = message.event {
            text.push_str(&delta.text);
        }
    }
    assert_eq!((text.as_str(), front.tokenizer.encoded()), (" or not", vec!["to be".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn text_arrives_as_it_is_generated() {
    let front = Front::new().await;
    let asking = front.asking(ask("tell me"));
    let mut call = front.inference.call().await;
    call.start().await;
    let mut answer = asking.await.unwrap().unwrap();
    call.tokens(&[front.tokenizer.id("once upon a time")]).await;
    // The filter of this test keeps seven bytes back, the tokenizer one.
    assert_eq!(answer.text(8).await, "once upo");
    call.tokens(&[front.tokenizer.id(" there was a king")]).await;
    assert!(answer.text(8).await.starts_with("n a time"));
}

#[tokio::test(start_paused = true)]
async fn options_reach_inference_and_stop_strings_do_not() {
    let front = Front::new().await;
    let options = GenerationOptions {
        sampling: Some(SamplingParams { temperature: Some(0.5), seed: Some(9), ..SamplingParams::default() }),
        stop: Some(StopConditions {
            max_tokens: Some(20),
            stop_token_ids: vec![5],
            ..StopConditions::default()
        }),
        top_logprobs: Some(2),
        priority: Some(-3),
        stop_strings: vec!["\n".to_owned()],
        cache_salt: Some("mine".to_owned()),
        ..GenerationOptions::default()
    };
    let asking = front.asking(ask_with("hi", options.clone()));
    let call = front.inference.call().await;
    assert_eq!((&call.request.sampling, &call.request.stop), (&options.sampling, &options.stop));
    assert_eq!((call.request.top_logprobs, call.request.priority), (Some(2), Some(-3)));
    let salt = call.request.cache_salt.clone().expect("prefix caches are separated by tenant");
    assert!(!salt.contains("mine") && salt.len() <= 128, "{salt}: no caller says the whole salt");
    say(&front, call, &[]).await;
    asking.await.unwrap().unwrap().whole().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_string_across_tokens_ends_the_answer_and_the_generation() {
    let front = Front::new().await;
    let options = GenerationOptions {
        stop_strings: vec!["END".to_owned(), "never".to_owned()],
        top_logprobs: Some(0),
        ..GenerationOptions::default()
    };
    let asking = front.asking(ask_with("hi", options));
    let mut call = front.inference.call().await;
    call.start().await;
    let ids = ["all", " done", " E", "N", "D of", " it"].map(|word| front.tokenizer.id(word));
    for id in ids {
        call.tokens(&[id]).await;
    }
    let whole = asking.await.unwrap().unwrap().whole().await;
    call.dropped().await;
    assert_eq!((whole.text.as_str(), whole.finished.stop_string.as_deref()), ("all done ", Some("END")));
    assert_eq!(whole.finished.reason(), FinishReason::Stop);
    let shown: Vec<u32> = whole.tokens.iter().map(|token| token.id).collect();
    assert!(shown.starts_with(&ids[..3]) && shown.len() <= 4, "{shown:?}");
    assert!((5..=6).contains(&whole.finished.usage.unwrap().completion_tokens));
}

#[tokio::test(start_paused = true)]
async fn a_generation_whose_last_answers_met_their_stop_string_ends_and_delays_nobody() {
    let front = Front::new().await;
    let stop_strings = vec!["END".to_owned()];
    let options = GenerationOptions { n: Some(2), stop_strings, ..GenerationOptions::default() };
    let asking = front.asking(ask_with("hi", options));
    let mut call = front.inference.call().await;
    call.start().await;
    let mut answer = asking.await.unwrap().unwrap();
    call.tokens_of(0, &[front.tokenizer.id("all done END of")]).await;
    quiet().await;
    // Inference would go on with the first; both ends are told without it.
    call.end_of(1, 0).await;
    let mut ends = Vec::new();
    while let Some(event) = answer.event().await.unwrap() {
        if let Event::Finished(finished) = event {
            ends.push((finished.index, finished.stop_string));
        }
    }
    ends.sort_unstable();
    assert_eq!(ends, [(0, Some("END".to_owned())), (1, None)]);
    call.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_string_does_not_stop_before_min_tokens() {
    let front = Front::new().await;
    let options = GenerationOptions {
        stop_strings: vec!["x".to_owned()],
        stop: Some(StopConditions { min_tokens: Some(4), ..StopConditions::default() }),
        ..GenerationOptions::default()
    };
    let asking = front.asking(ask_with("hi", options));
    let call = front.inference.call().await;
    say(&front, call, &["axa", "b", "c", "d", "exe"]).await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!((whole.text.as_str(), whole.finished.stop_string.as_deref()), ("axabcde", Some("x")));
}

#[tokio::test(start_paused = true)]
async fn every_token_is_reported_once_with_its_log_probability_and_the_end_token_is_silent() {
    let front = Front::new().await;
    let options = GenerationOptions { top_logprobs: Some(0), ..GenerationOptions::default() };
    let asking = front.asking(ask_with("hi", options));
    let call = front.inference.call().await;
    let words = ["one", " two", "", " thrée"];
    say(&front, call, &words).await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!(whole.text, "one two thrée");
    let expected: Vec<u32> = words.iter().map(|word| front.tokenizer.id(word)).chain([END]).collect();
    assert_eq!(whole.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), expected);
    assert!(whole.tokens.iter().all(|token| token.logprob == -0.5));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_word_is_an_answer() {
    let front = Front::new().await;
    let asking = front.asking(ask("say nothing"));
    let call = front.inference.call().await;
    say(&front, call, &[]).await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    assert_eq!((whole.text.as_str(), whole.finished.usage.unwrap().completion_tokens), ("", 1));
}

#[tokio::test(start_paused = true)]
async fn the_models_are_listed_and_an_unknown_one_is_named_with_those_that_are_served() {
    let front = Front::new().await;
    let mut client = front.client.clone();
    let models = client.list_models(ListModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!((models.len(), models[0].id.as_str(), models[0].chat), (1, MODEL, true));
    let found = client.get_model(GetModelRequest { model: MODEL.to_owned() }).await.unwrap().into_inner();
    assert_eq!(found.model.as_ref(), models.first());

    let mut request = ask("hi");
    request.model = "gpt-9".to_owned();
    let unknown = front.chat(request).await.err().unwrap();
    let missing = client.get_model(GetModelRequest { model: "gpt-9".to_owned() }).await.unwrap_err();
    for status in [unknown, missing] {
        assert_eq!(status.code(), Code::NotFound);
        assert!(
            status.message().contains("gpt-9") && status.message().contains(MODEL),
            "{}",
            status.message()
        );
    }
    quiet().await;
    assert!(!front.inference.has_call().await);
}

#[tokio::test(start_paused = true)]
async fn sixty_four_answers_at_once_on_one_connection_are_all_whole() {
    let front = Front::new().await;
    let word = "word ";
    let id = front.tokenizer.id(word);
    let answers = (0..64).map(|_| async {
        let answer = front.chat(ask("go on")).await.unwrap();
        answer.whole().await
    });
    let play = async {
        let mut calls = Vec::new();
        for _ in 0..64 {
            calls.push(front.inference.call().await);
        }
        join_all(calls.into_iter().map(|mut call| async move {
            call.start().await;
            for _ in 0..200 {
                call.tokens(&[id]).await;
            }
            call.end().await;
        }))
        .await;
    };
    let (answers, ()) = tokio::join!(join_all(answers), play);
    assert!(answers.iter().all(|answer| answer.text == word.repeat(200)));
}
