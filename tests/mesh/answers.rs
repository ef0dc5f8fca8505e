//! Right answers, through all four services.

use futures::future::join_all;
use weft_proto::{
    common::v1::{ChatMessage, FinishReason, Role, SamplingParams},
    gateway::v1::{ChatRequest, CompleteRequest, EmbedRequest, GenerationOptions, complete_response::Event},
};
use weft_tests::{
    Answer, Brain, Caller, Mesh,
    caller::{chat, greedy},
    golden::{self, GreedyCase},
};

use crate::soon;

fn request(case: &GreedyCase, options: GenerationOptions) -> ChatRequest {
    let messages = case.messages.iter().map(|message| {
        let role = match message.role.as_str() {
            "system" => Role::System,
            "assistant" => Role::Assistant,
            _ => Role::User,
        };
        ChatMessage { role: role.into(), content: message.content.clone(), ..Default::default() }
    });
    ChatRequest { messages: messages.collect(), options: Some(options), ..Default::default() }
}

/// As the golden answers were made: 48 tokens, none of which may be an end token.
fn as_golden() -> GenerationOptions {
    let mut options = greedy(48);
    options.stop.get_or_insert_default().min_tokens = Some(48);
    options
}

async fn ask_golden(caller: &Caller, case: &GreedyCase) -> Answer {
    soon("a golden answer", caller.answer(request(case, as_golden()))).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_model_answers_as_transformers_does_alone_and_among_sixteen_others() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let (caller, cases) = (mesh.caller(), golden::greedy());
    let mut alone = Vec::new();
    for case in &cases {
        let answer = ask_golden(&caller, case).await;
        assert_eq!(answer.text, case.text);
        assert_eq!(answer.reason(), FinishReason::Length);
        assert_eq!(answer.started.prompt_tokens as usize, case.input_ids.len());
        assert_eq!(answer.completion_tokens() as usize, case.greedy_ids.len());
        alone.push(answer.text);
    }
    let crowd = (0..17).map(|at| ask_golden(&caller, &cases[at % cases.len()]));
    for (at, answer) in join_all(crowd).await.into_iter().enumerate() {
        assert_eq!(answer.text, alone[at % cases.len()], "request {at} of 17");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_text_whatever_else_runs() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let caller = mesh.caller();
    let seeded = |seed| {
        let mut options = greedy(16);
        options.sampling = Some(SamplingParams {
            temperature: Some(0.9),
            top_p: Some(0.95),
            seed: Some(seed),
            ..Default::default()
        });
        chat("Tell me a story.", options)
    };
    let alone = soon("an answer", caller.answer(seeded(7))).await.unwrap();
    let crowd = soon("a crowd", join_all((1..12).map(|seed| caller.answer(seeded(seed))))).await;
    let again = crowd.into_iter().nth(6).unwrap().unwrap();
    assert_eq!((alone.text, alone.started.seed), (again.text, again.started.seed));
    let other = soon("another answer", caller.answer(seeded(8))).await.unwrap();
    assert_eq!(other.started.seed, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_across_tokens_ends_the_answer_before_it() {
    let case = &golden::greedy()[0];
    let mesh = Mesh::with(Brain::Saying(case.greedy_ids.clone())).await;
    let (before, stop) = case.text.split_at(case.text.find(" is Paris").unwrap());
    let stop = stop[..stop.find('.').unwrap()].to_owned();
    let mut options = greedy(48);
    options.stop_strings = vec!["never".to_owned(), stop.clone()];
    let answer = soon("an answer", mesh.caller().answer(chat("Where?", options))).await.unwrap();
    assert_eq!(answer.text, before);
    assert_eq!(answer.finished.stop_string, Some(stop));
    assert_eq!(answer.reason(), FinishReason::Stop);
    soon("idling", mesh.engine().idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_name_every_token_once_and_in_order() {
    let case = &golden::greedy()[1];
    let mesh = Mesh::with(Brain::Saying(case.greedy_ids.clone())).await;
    let mut options = as_golden();
    options.top_logprobs = Some(3);
    let answer = soon("an answer", mesh.caller().answer(chat("A haiku.", options))).await.unwrap();
    let tokens: Vec<_> = answer.deltas.iter().flat_map(|delta| &delta.tokens).collect();
    assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), case.greedy_ids);
    assert!(tokens.iter().all(|token| token.top_logprobs.len() == 3 && token.top_logprobs[0].id == token.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_goes_on_from_its_prompt() {
    let case = &golden::greedy()[0];
    let mesh = Mesh::with(Brain::Saying(case.greedy_ids[..8].to_vec())).await;
    let request =
        CompleteRequest { prompt: "Once".to_owned(), options: Some(greedy(32)), ..Default::default() };
    let mut stream = mesh.caller().client.complete(request).await.unwrap().into_inner();
    let (mut text, mut finished) = (String::new(), None);
    while let Some(message) = soon("a completion", stream.message()).await.unwrap() {
        match message.event {
            Some(Event::Delta(delta)) => text.push_str(&delta.text),
            Some(Event::Finished(end)) => finished = Some(end),
            Some(Event::Started(_)) | None => {}
        }
    }
    assert!(case.text.starts_with(&text) && !text.is_empty(), "{text:?}");
    let finished = finished.unwrap();
    assert_eq!(finished.reason(), FinishReason::Stop);
    // The eight words and the end token.
    assert_eq!(finished.usage.unwrap().completion_tokens, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_of_unit_length_and_tell_texts_apart() {
    let mesh = Mesh::with(Brain::SmolLm2).await;
    let inputs = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose in May."];
    let request = EmbedRequest { inputs: inputs.map(str::to_owned).to_vec(), ..Default::default() };
    let embeddings = mesh.caller().client.embed(request).await.unwrap().into_inner().embeddings;
    let dot = |a: usize, b: usize| -> f32 {
        embeddings[a].values.iter().zip(&embeddings[b].values).map(|(x, y)| x * y).sum()
    };
    assert_eq!(embeddings[0].values.len(), 576);
    assert!((0..3).all(|at| (dot(at, at) - 1.0).abs() < 1e-4));
    assert!(dot(0, 1) > dot(0, 2), "{} and {}", dot(0, 1), dot(0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_chats_at_once_all_get_their_answer_and_leave_no_block_behind() {
    let case = &golden::greedy()[2];
    let mesh = Mesh::with(Brain::Saying(case.greedy_ids.clone())).await;
    let caller = mesh.caller();
    for _ in 0..10 {
        let answers = soon("sixty-four chats", join_all((0..64).map(|_| caller.ask("Primes?", 48)))).await;
        assert!(
            answers.iter().all(|answer| answer.as_ref().unwrap().text == answers[0].as_ref().unwrap().text)
        );
        soon("idling", mesh.engine().idle()).await;
        let status = mesh.engine().status();
        assert_eq!(status.blocks_free, status.blocks_total);
    }
}
