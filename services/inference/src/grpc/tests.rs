//! The service as a client meets it: over a connection, through the process's own layers.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use weft_proto::inference::v1::inference_service_client::InferenceServiceClient;
use weft_runtime::{
    Process, RuntimeConfig,
    client::{self, Outgoing},
    pipe,
};

use super::*;
use crate::{Config, engine::Pace, model::scripted::Scripted};

const END: u32 = 3;
const SCRIPT: [u32; 5] = [11, 12, 13, 14, 15];

/// A process that serves a scripted model, and a client of it.
struct Service {
    client: InferenceServiceClient<Outgoing>,
    engine: EngineHandle,
    pace: Pace,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn service() -> Service {
    service_with("").await
}

async fn service_with(more: &str) -> Service {
    let config = "[model]\nfolder = \"models/parrot\"\n[kv_cache]\nblock_size = 4\nmemory = \"256KiB\"\n\
                  [scheduler]\nmax_sequences = 2\nmax_waiting = 2\n[limits]\nmax_embed_inputs = 3\nmax_new_tokens = 100\n";
    let config: Config = weft_runtime::config::parse(&format!("{config}{more}"), &[]).unwrap();
    let mut model = Scripted::saying(50, SCRIPT.to_vec(), END);
    model.info_mut().context_length = 128;
    let process = Process::new("inference", RuntimeConfig::default());
    let context = process.context().clone();
    let pace = Pace::default();
    let running = crate::start_stepped(config, context.clone(), Box::new(model), pace.clone()).await.unwrap();
    let (connector, incoming) = pipe::pipe();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let start = std::future::ready(Ok::<_, weft_runtime::BoxError>(running.services));
    let life = process.run(start, incoming, async { stopped.await.unwrap_or(()) });
    context.tasks.spawn("process", life);
    context.health.serving().await;
    let caller = Process::new("gateway", RuntimeConfig::default()).context().clone();
    let target = client::Target::Pipe(connector);
    let channel = client::connect(&caller, "inference", target, &client::ClientConfig::default()).unwrap();
    Service { client: InferenceServiceClient::new(channel), engine: running.engine, pace, _stop: stop }
}

fn prompt(ids: &[u32]) -> wire::GenerateRequest {
    wire::GenerateRequest { prompt_token_ids: ids.to_vec(), ..Default::default() }
}

async fn refusal(service: &mut Service, request: wire::GenerateRequest) -> Status {
    service.client.generate(request).await.expect_err("is refused")
}

#[tokio::test]
async fn a_generation_streams_started_tokens_and_finished() {
    let mut service = service().await;
    let mut stream = service.client.generate(prompt(&[1, 2])).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.next().await {
        events.push(message.unwrap().event.unwrap());
    }
    assert!(matches!(events.first(), Some(WireEvent::Started(wire::Started { prompt_tokens: 2, .. }))));
    let ids: Vec<u32> = events
        .iter()
        .flat_map(|event| match event {
            WireEvent::Tokens(tokens) => tokens.tokens.iter().map(|token| token.id).collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(ids, [11, 12, 13, 14, 15, END]);
    let Some(WireEvent::Finished(finished)) = events.last() else { panic!("no end in {events:?}") };
    assert_eq!(finished.reason(), common::FinishReason::Stop);
    assert_eq!(finished.stop_token_id, Some(END));
    let usage = finished.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens), (2, 6, 0));
}

#[tokio::test]
async fn what_gathers_while_the_reader_is_slow_travels_together() {
    let service = service().await;
    let request = GenerateRequest { prompt: vec![1], ..Default::default() };
    let served = crate::request::tests::served();
    let generation = service.engine.generate(request.check(&served, || 1).unwrap(), None).unwrap();
    service.engine.idle().await;
    let messages: Vec<_> = Tokens::of(generation, None).map(Result::unwrap).collect().await;
    assert_eq!(messages.len(), 3, "one Started, one Tokens, one Finished");
}

#[tokio::test]
async fn everything_that_is_wrong_is_reported_at_once() {
    let mut service = service().await;
    let sampling = common::SamplingParams {
        temperature: Some(f32::NAN),
        top_p: Some(0.0),
        min_p: Some(-0.5),
        frequency_penalty: Some(2.5),
        repetition_penalty: Some(f32::INFINITY),
        logit_bias: [(7, -101.0), (50, 1.0)].into(),
        ..Default::default()
    };
    let stop = common::StopConditions {
        max_tokens: Some(0),
        min_tokens: Some(1),
        stop_token_ids: vec![4, 99],
        ..Default::default()
    };
    let request = wire::GenerateRequest {
        prompt_token_ids: vec![1, 50, 51],
        sampling: Some(sampling),
        stop: Some(stop),
        top_logprobs: Some(21),
        prompt_top_logprobs: Some(22),
        priority: Some(-101),
        ..Default::default()
    };
    let status = refusal(&mut service, request).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut fields: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    fields.sort();
    let expected = [
        "priority",
        "prompt_token_ids[1]",
        "prompt_top_logprobs",
        "sampling.frequency_penalty",
        "sampling.logit_bias[50]",
        "sampling.logit_bias[7]",
        "sampling.min_p",
        "sampling.repetition_penalty",
        "sampling.temperature",
        "sampling.top_p",
        "stop.max_tokens",
        "stop.min_tokens",
        "stop.stop_token_ids[1]",
        "top_logprobs",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_with_the_numbers() {
    let mut service = service().await;
    // The cache holds 64 blocks of 4: 256 tokens; the model's positions end at 128.
    let stop = common::StopConditions { max_tokens: Some(40), ..Default::default() };
    let request = wire::GenerateRequest { stop: Some(stop), ..prompt(&[1; 100]) };
    let status = refusal(&mut service, request).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let text = status.get_details_bad_request().unwrap().field_violations[0].description.clone();
    assert!(text.contains("40") && text.contains("28") && text.contains("128"), "{text}");
    let status = refusal(&mut service, prompt(&[1; 128])).await;
    assert_eq!(status.code(), Code::InvalidArgument, "no room for a single new token");
    let status = refusal(&mut service, prompt(&[])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_fifth_request_is_refused_while_four_are_held() {
    let mut service = service().await;
    service.pace.gate.close();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(service.client.generate(prompt(&[1])).await.unwrap());
    }
    let status = refusal(&mut service, prompt(&[1])).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "QUEUE_FULL");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some_and(|delay| delay > Duration::ZERO));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_blocks() {
    let mut service = service().await;
    service.pace.gate.close();
    let mut stream = service.client.generate(prompt(&[1; 9])).await.unwrap().into_inner();
    service.pace.gate.admit(1);
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    // The abort travels through the connection; whichever step it meets is followed by none.
    service.pace.gate.open();
    service.engine.idle().await;
    assert_eq!(service.engine.status().blocks_free, service.engine.status().blocks_total);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_stream_with_deadline_exceeded() {
    let mut service = service().await;
    service.pace.gate.close();
    let mut request = Request::new(prompt(&[1]));
    request.set_timeout(Duration::from_secs(1));
    let mut stream = service.client.generate(request).await.unwrap().into_inner();
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    service.pace.gate.open();
    service.engine.idle().await;
    assert_eq!(service.engine.status().prefilled, 0, "it never ran");
}

#[tokio::test]
async fn embeddings_come_in_order_and_bad_inputs_are_all_named() {
    let mut service = service().await;
    let inputs = |lists: &[&[u32]]| wire::EmbedRequest {
        inputs: lists.iter().map(|ids| wire::TokenSequence { token_ids: ids.to_vec() }).collect(),
        tenant: None,
    };
    let both = service.client.embed(inputs(&[&[1, 2, 3], &[4]])).await.unwrap().into_inner().embeddings;
    let second = service.client.embed(inputs(&[&[4]])).await.unwrap().into_inner().embeddings;
    assert_eq!(both.len(), 2);
    assert_eq!(both[1], second[0]);
    let status = service.client.embed(inputs(&[&[], &[60], &[1]])).await.unwrap_err();
    let fields: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(fields, ["inputs[0].token_ids", "inputs[1].token_ids[0]"]);
    let status = service.client.embed(inputs(&[[1].as_slice(); 4])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "at most 3 inputs");
}

#[tokio::test]
async fn scores_come_in_order_one_for_each_id_after_the_first() {
    let mut service = service().await;
    let inputs = |lists: &[&[u32]]| wire::ScoreRequest {
        inputs: lists.iter().map(|ids| wire::TokenSequence { token_ids: ids.to_vec() }).collect(),
        adapter_id: None,
        tenant: None,
    };
    let request = inputs(&[&[1, 11, 12, 40], &[7]]);
    let scores = service.client.score(request).await.unwrap().into_inner().scores;
    let [said, single] = scores.as_slice() else { panic!("{scores:?}") };
    assert!(said.logprobs[..2].iter().all(|logprob| *logprob > -1e-6), "what the script says: {said:?}");
    assert!(said.logprobs[2] < -29.0, "what it never says: {said:?}");
    assert_eq!((said.logprobs.len(), single.logprobs.len()), (3, 0));
    let status = service.client.score(inputs(&[&[], &[60]])).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2);
    assert_eq!(service.client.score(inputs(&[])).await.unwrap_err().code(), Code::InvalidArgument);
    let charged = wire::ScoreRequest { tenant: Some("x".repeat(129)), ..inputs(&[&[7]]) };
    let violations = service.client.score(charged).await.unwrap_err().get_details_bad_request().unwrap();
    assert_eq!(violations.field_violations[0].field, "tenant");
}

#[tokio::test]
async fn the_prompts_likelihood_follows_the_start_in_pieces() {
    let mut service = service().await;
    let stop = common::StopConditions { max_tokens: Some(1), ..Default::default() };
    let request =
        wire::GenerateRequest { stop: Some(stop), prompt_top_logprobs: Some(2), ..prompt(&[1, 11, 12]) };
    let stream = service.client.generate(request).await.unwrap().into_inner();
    let events: Vec<_> = stream.map(|message| message.unwrap().event.unwrap()).collect().await;
    assert!(matches!(events[0], WireEvent::Started(_)));
    let WireEvent::PromptLogprobs(prompt) = &events[1] else { panic!("{events:?}") };
    let ids: Vec<u32> = prompt.tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, [1, 11, 12]);
    assert_eq!((prompt.tokens[0].logprob, prompt.tokens[0].top_logprobs.len()), (None, 0));
    assert_eq!((prompt.tokens[1].top_logprobs[0].id, prompt.tokens[1].top_logprobs.len()), (11, 2));
    assert!(matches!(events[2], WireEvent::Tokens(_)));
}

#[tokio::test]
async fn adapters_are_loaded_used_listed_and_unloaded_over_the_wire() {
    let root = crate::adapters::tests::folder_of(&[("one", 10)]);
    let mut service = service_with(&format!("[adapters]\nfolder = \"{}\"\n", root.path().display())).await;
    let load = |expected| wire::LoadAdapterRequest {
        adapter_id: "a".to_owned(),
        path: "one".to_owned(),
        expected_generation: expected,
    };
    let loaded = service.client.load_adapter(load(None)).await.unwrap().into_inner().adapter.unwrap();
    assert_eq!((loaded.adapter_id.as_str(), loaded.generation, loaded.bytes), ("a", 1, 10));
    let list = service.client.list_adapters(wire::ListAdaptersRequest {}).await.unwrap().into_inner();
    assert_eq!(list.adapters, [loaded]);
    let status = service.client.get_engine_status(wire::GetEngineStatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().adapters, list.adapters);
    let status = service.client.load_adapter(load(Some(5))).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("generation 1"), "{}", status.message());

    let stop = common::StopConditions { max_tokens: Some(1), ..Default::default() };
    let named = |id: &str| wire::GenerateRequest {
        adapter_id: Some(id.to_owned()),
        stop: Some(stop.clone()),
        ..prompt(&[1, 2])
    };
    let stream = service.client.generate(named("a")).await.unwrap().into_inner();
    let events: Vec<_> = stream.map(|message| message.unwrap().event.unwrap()).collect().await;
    let WireEvent::Tokens(tokens) = &events[1] else { panic!("{events:?}") };
    assert_eq!(tokens.tokens[0].id, 21, "the script says 11; the adapter adds 10");
    let status = refusal(&mut service, named("b")).await;
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "no adapter `b` is loaded; loaded are: a");

    let inputs = vec![wire::TokenSequence { token_ids: vec![1, 21] }];
    let score = |id: &str| wire::ScoreRequest {
        inputs: inputs.clone(),
        adapter_id: Some(id.to_owned()),
        tenant: None,
    };
    let scores = service.client.score(score("a")).await.unwrap().into_inner().scores;
    assert!(scores[0].logprobs[0] > -1e-6);
    assert_eq!(service.client.score(score("b")).await.unwrap_err().code(), Code::NotFound);

    let unload = wire::UnloadAdapterRequest { adapter_id: "a".to_owned(), expected_generation: Some(1) };
    service.client.unload_adapter(unload).await.unwrap();
    assert_eq!(refusal(&mut service, named("a")).await.code(), Code::NotFound);
}

#[tokio::test]
async fn the_service_says_what_it_serves_and_how_busy_it_is() {
    let mut service = service().await;
    let info = service.client.get_model_info(wire::GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.model_id.as_str(), info.vocabulary_size, info.context_length), ("parrot", 50, 128));
    let status =
        service.client.get_engine_status(wire::GetEngineStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.max_running, status.max_waiting), (2, 2));
    assert_eq!((status.kv_blocks_total, status.kv_blocks_free, status.kv_block_size), (64, 64, 4));
}

#[tokio::test]
async fn continuations_are_told_apart_and_the_prompt_is_charged_once() {
    let mut service = service().await;
    let request = wire::GenerateRequest { n: Some(2), ..prompt(&[1, 2, 3, 4, 5]) };
    let mut stream = service.client.generate(request).await.unwrap().into_inner();
    let (mut ids, mut usages) = ([Vec::new(), Vec::new()], [None, None]);
    while let Some(message) = stream.next().await {
        match message.unwrap().event.unwrap() {
            WireEvent::Tokens(tokens) => {
                ids[tokens.index as usize].extend(tokens.tokens.iter().map(|token| token.id));
            }
            WireEvent::Finished(finished) => usages[finished.index as usize] = finished.usage,
            _ => {}
        }
    }
    assert_eq!(ids, [[11, 12, 13, 14, 15, END], [11, 12, 13, 14, 15, END]]);
    let counts = usages.map(|usage| usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)));
    assert_eq!(counts, [Some((5, 6)), Some((0, 6))]);
}

#[tokio::test]
async fn a_second_request_says_what_it_found_in_the_cache_and_so_does_the_status() {
    let mut service = service().await;
    let mut found = Vec::new();
    for salt in [None, None, Some("other")] {
        let request = wire::GenerateRequest { cache_salt: salt.map(str::to_owned), ..prompt(&[1; 9]) };
        let mut stream = service.client.generate(request).await.unwrap().into_inner();
        while let Some(message) = stream.next().await {
            if let Some(WireEvent::Finished(finished)) = message.unwrap().event {
                found.push(finished.usage.unwrap().cached_prompt_tokens);
            }
        }
    }
    assert_eq!(found, [0, 8, 0]);
    let status =
        service.client.get_engine_status(wire::GetEngineStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.prefix_queried_tokens, status.prefix_hit_tokens), (27, 8));
}

#[tokio::test]
async fn a_salt_that_is_too_long_and_more_continuations_than_are_served_are_refused() {
    let mut service = service().await;
    let salt = Some("s".repeat(129));
    let status =
        refusal(&mut service, wire::GenerateRequest { cache_salt: salt, n: Some(5), ..prompt(&[1]) }).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let said: Vec<(&str, &str)> = violations
        .iter()
        .map(|violation| (violation.field.as_str(), violation.description.as_str()))
        .collect();
    assert_eq!(
        said,
        [("cache_salt", "has 129 bytes; must have at most 128"), ("n", "is 5; must be from 1 to 4")]
    );
}

#[tokio::test]
async fn a_resumption_goes_on_behind_what_was_said_and_its_usage_counts_all() {
    let mut service = service().await;
    let sampling = common::SamplingParams { seed: Some(7), ..Default::default() };
    let resumption = wire::Resumption { token_ids: SCRIPT[..3].to_vec(), ..Default::default() };
    let request =
        wire::GenerateRequest { sampling: Some(sampling), resumption: Some(resumption), ..prompt(&[1, 2]) };
    let mut stream = service.client.generate(request).await.unwrap().into_inner();
    let (mut ids, mut usage) = (Vec::new(), None);
    while let Some(message) = stream.next().await {
        match message.unwrap().event.unwrap() {
            WireEvent::Tokens(tokens) => ids.extend(tokens.tokens.iter().map(|token| token.id)),
            WireEvent::Finished(finished) => usage = finished.usage,
            WireEvent::Started(started) => assert_eq!((started.prompt_tokens, started.seed), (2, 7)),
            WireEvent::PromptLogprobs(_) => panic!("nobody asked for them"),
        }
    }
    assert_eq!(ids, [14, 15, END]);
    let usage = usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 6));
}

#[tokio::test]
async fn a_resumption_that_cannot_be_one_is_refused_with_every_reason() {
    let mut service = service().await;
    let resumption = wire::Resumption { token_ids: vec![1, 2, 50], index: 99, ..Default::default() };
    let request = wire::GenerateRequest {
        resumption: Some(resumption.clone()),
        stop: Some(common::StopConditions { max_tokens: Some(2), ..Default::default() }),
        prompt_top_logprobs: Some(1),
        n: Some(2),
        ..prompt(&[1])
    };
    let status = refusal(&mut service, request).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let named: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    let expected = [
        "resumption.token_ids",
        "resumption.token_ids[2]",
        "resumption.index",
        "sampling.seed",
        "n",
        "prompt_top_logprobs",
    ];
    assert_eq!(named, expected);
    let resumption =
        wire::Resumption { adapter_fingerprint: Some("another".to_owned()), ..Default::default() };
    let sampling = common::SamplingParams { seed: Some(7), ..Default::default() };
    let request =
        wire::GenerateRequest { sampling: Some(sampling), resumption: Some(resumption), ..prompt(&[1]) };
    let status = refusal(&mut service, request).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(weft_runtime::status::reason_of(&status).as_deref(), Some("ADAPTER_REPLACED"));
}
