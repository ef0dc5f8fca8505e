//! A replica of inference dies under an answer, and the answer goes on at the other: the caller sees a pause and nothing
//! else.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test, and says where")]

use std::collections::BTreeMap;

use tonic::{Code, Streaming};
use weft_proto::{
    common::v1::{Constraint, SamplingParams, StopConditions, constraint::Form},
    gateway::v1::{ChatRequest, ChatResponse, Finished, GenerationOptions, TokenInfo, chat_response::Event},
};
use weft_tests::{
    Brain, Mesh, Room,
    caller::{chat, collect, greedy},
    mesh::Plan,
};

use crate::soon;

const REPLICAS: [Room; 2] = [Room::Inference, Room::Spare];

/// How the replica is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Only its connection.
    Cut,
    /// Itself, without a word.
    Kill,
}

async fn replicated(brain: Brain, gateway: &str) -> Mesh {
    let gateway = gateway.to_owned();
    let inference = "[kv_cache]\nprefix_caching = false\n".to_owned();
    let plan = Plan { brain, inference, gateway, runtime: Default::default() };
    soon("the start", Mesh::replicated(plan)).await
}

/// Sampled, with everything that depends on what was said before.
fn demanding(max_tokens: u32) -> ChatRequest {
    let sampling = SamplingParams {
        temperature: Some(0.9),
        top_k: Some(50),
        seed: Some(7),
        repetition_penalty: Some(1.2),
        frequency_penalty: Some(0.5),
        presence_penalty: Some(0.3),
        ..SamplingParams::default()
    };
    let stop = StopConditions { max_tokens: Some(max_tokens), min_tokens: Some(6), ..Default::default() };
    let options = GenerationOptions {
        sampling: Some(sampling),
        stop: Some(stop),
        top_logprobs: Some(2),
        ..GenerationOptions::default()
    };
    chat("Go on.", options)
}

/// What a caller may compare of a call's answers, by their index. How text and tokens are cut into messages depends on
/// how fast they come.
#[derive(Debug, Default, PartialEq)]
struct Told {
    seed: u64,
    prompt_tokens: u32,
    answers: BTreeMap<u32, (String, Vec<TokenInfo>)>,
    ends: BTreeMap<u32, Finished>,
}

impl Told {
    fn text(&self) -> &str {
        &self.answers[&0].0
    }

    fn completion_tokens(&self) -> u32 {
        self.ends[&0].usage.unwrap_or_default().completion_tokens
    }
}

async fn told(mut stream: Streaming<ChatResponse>) -> Told {
    let mut told = Told::default();
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Started(started) => {
                (told.seed, told.prompt_tokens) = (started.seed, started.prompt_tokens);
            }
            Event::Delta(delta) => {
                let (text, tokens) = told.answers.entry(delta.index).or_default();
                text.push_str(&delta.text);
                tokens.extend(delta.tokens);
            }
            Event::Finished(finished) => {
                let before = told.ends.insert(finished.index, finished);
                assert_eq!(before, None, "an answer ends once");
            }
        }
    }
    told
}

/// What nobody disturbs.
async fn whole(mesh: &Mesh, request: ChatRequest) -> Told {
    let caller = mesh.caller();
    soon("an answer", async { told(caller.stream(request).await.unwrap()).await }).await
}

/// Asks, loses the replica that answers after `steps` of the engine, and returns the answer and who was lost.
async fn disturbed(mesh: &mut Mesh, request: ChatRequest, steps: usize, loss: Loss) -> (Told, Room) {
    let gates = REPLICAS.map(|room| mesh.hands_of(room).controls().gate);
    gates.iter().for_each(|gate| {
        gate.close();
        gate.admit(steps);
    });
    let caller = mesh.caller();
    let stream = soon("the beginning", caller.stream(request)).await.unwrap();
    let answering = soon(
        "a replica at its gate",
        futures::future::select_all(gates.iter().map(|gate| Box::pin(gate.held()))),
    )
    .await
    .1;
    let lost = REPLICAS[answering];
    match loss {
        Loss::Cut => mesh.connector(lost).cut(),
        Loss::Kill => mesh.kill(lost),
    }
    // The lost one says nothing more, or it might be done before its connection is gone.
    let others = gates.iter().enumerate().filter(|(index, _)| *index != answering);
    others.for_each(|(_, gate)| gate.open());
    let rest = soon("the rest", told(stream)).await;
    gates[answering].open();
    if matches!(loss, Loss::Cut) {
        // What it had begun is no longer wanted, and must not be taken for the next answer.
        soon("the lost one to be idle", mesh.engine_of(lost).idle()).await;
    }
    (rest, lost)
}

async fn resumptions(mesh: &Mesh) -> f64 {
    let page = mesh.context(Room::Gateway).metrics.encode();
    let line = page.lines().find(|line| {
        line.starts_with("weft_gateway_resumptions_total{service=\"inference\",outcome=\"resumed\"}")
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_at_the_other_replica_after_any_of_its_tokens() {
    let mut mesh = replicated(Brain::Unsure, "").await;
    let mut greedy_options = greedy(24);
    greedy_options.stop.get_or_insert_default().ignore_eos = true;
    // It decides nothing, but it is told.
    greedy_options.sampling.get_or_insert_default().seed = Some(7);
    for request in [demanding(24), chat("Go on.", greedy_options)] {
        let whole = whole(&mesh, request.clone()).await;
        assert_eq!(whole.completion_tokens(), 24);
        for steps in [1, 2, 3, 7, 12, 22, 23] {
            let before = resumptions(&mesh).await;
            let (answer, _) = disturbed(&mut mesh, request.clone(), steps, Loss::Cut).await;
            assert_eq!(answer, whole, "after {steps} steps");
            assert_eq!(resumptions(&mesh).await, before + 1.0, "after {steps} steps");
        }
    }
    for room in REPLICAS {
        soon("freeing", mesh.engine_of(room).idle()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_is_replaced_and_used_again_when_it_is_back() {
    let mut mesh = replicated(Brain::Unsure, "").await;
    let whole = whole(&mesh, demanding(16)).await;
    for steps in [4, 9, 14] {
        let (answer, lost) = disturbed(&mut mesh, demanding(16), steps, Loss::Kill).await;
        assert_eq!(answer, whole, "after {steps} steps");
        mesh.revive(lost);
        soon("recovery", mesh.ready()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_output_goes_on_where_it_stood_in_its_grammar() {
    let mut mesh = replicated(Brain::Unsure, "").await;
    let form = Form::Regex("[a-f]{4,12}-[0-9]{4,12}(x|yz){1,5}".to_owned());
    let mut request = demanding(60);
    let options = request.options.get_or_insert_default();
    options.constraint = Some(Constraint { form: Some(form) });
    let whole = whole(&mesh, request.clone()).await;
    let tokens = whole.completion_tokens() as usize;
    for steps in [1, tokens / 2, tokens - 1] {
        let (answer, _) = disturbed(&mut mesh, request.clone(), steps, Loss::Cut).await;
        assert_eq!(answer, whole, "after {steps} of {tokens} steps");
    }
}

/// Three of different length, so that one has ended and the others go on, each behind what it has said itself.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_answers_goes_on_by_itself() {
    let mut mesh = replicated(Brain::Unsure, "").await;
    let form = Form::Regex("[a-f]{2,30}x".to_owned());
    let mut request = demanding(40);
    let options = request.options.get_or_insert_default();
    options.n = Some(3);
    options.stop.get_or_insert_default().min_tokens = None;
    options.constraint = Some(Constraint { form: Some(form) });
    let whole = whole(&mesh, request.clone()).await;
    let lengths = whole.ends.values().map(|end| end.usage.unwrap_or_default().completion_tokens);
    let lengths: Vec<_> = lengths.collect();
    let (least, most) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
    assert!(lengths.len() == 3 && least + 1 < most, "{lengths:?}");
    for steps in [1, least - 1, least + 1, most - 1] {
        let before = resumptions(&mesh).await;
        let (answer, _) = disturbed(&mut mesh, request.clone(), steps as usize, Loss::Cut).await;
        assert_eq!(answer, whole, "after {steps} of {lengths:?} steps");
        // An answer that has ended goes on too where its end was lost on the way.
        let running = lengths.iter().filter(|length| **length > steps).count() as f64;
        let resumed = resumptions(&mesh).await - before;
        assert!((running..=3.0).contains(&resumed), "{resumed} after {steps} of {lengths:?} steps");
    }
    for room in REPLICAS {
        soon("freeing", mesh.engine_of(room).idle()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_sees_one_text_whoever_says_it() {
    // "Mail jane.roe@example.com today", cut within the address, which the default policy redacts.
    let script = soon("the ids", ids("Mail jane.roe@example.com today.")).await;
    let mut mesh = replicated(Brain::Saying(script.clone()), "").await;
    let mut options = greedy(64);
    options.sampling.get_or_insert_default().seed = Some(7);
    let request = || chat("Whom?", options.clone());
    let whole = whole(&mesh, request()).await;
    assert!(!whole.text().contains("example.com") && whole.text().contains("today"), "{}", whole.text());
    for steps in 1..script.len() {
        let (answer, _) = disturbed(&mut mesh, request(), steps, Loss::Cut).await;
        assert_eq!(answer, whole, "after {steps} steps");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_switched_off_the_loss_is_the_callers() {
    let mut mesh = replicated(Brain::Unsure, "[resume]\nenabled = false\n").await;
    let gates = REPLICAS.map(|room| mesh.hands_of(room).controls().gate);
    gates.iter().for_each(|gate| {
        gate.close();
        gate.admit(3);
    });
    let stream = soon("the beginning", mesh.caller().stream(demanding(24))).await.unwrap();
    for room in REPLICAS {
        mesh.kill(room);
    }
    let status = soon("the loss", collect(stream)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    gates.iter().for_each(|gate| gate.open());
}

/// What the tokenizer of every mesh makes of a text.
async fn ids(text: &str) -> Vec<u32> {
    use weft_proto::tokenizer::v1::{EncodeRequest, tokenizer_service_client::TokenizerServiceClient};
    let mut mesh = Mesh::unstarted(Plan {
        brain: Brain::Endless,
        inference: String::new(),
        gateway: String::new(),
        runtime: Default::default(),
    });
    mesh.revive(Room::Tokenizer);
    mesh.context(Room::Tokenizer).health.serving().await;
    let channel = weft_tests::caller::channel(mesh.connector(Room::Tokenizer).clone());
    let request = EncodeRequest { text: text.to_owned(), add_special_tokens: Some(false) };
    TokenizerServiceClient::new(channel).encode(request).await.unwrap().into_inner().token_ids
}
