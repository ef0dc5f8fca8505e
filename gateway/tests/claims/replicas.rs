//! Several replicas of inference behind one gateway.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use weft_proto::{
    common::v1::FinishReason,
    gateway::v1::{EmbedRequest, GenerationOptions},
};
use weft_runtime::status::{unavailable, with_reason};

use crate::{
    doubles::inference::{Call, Inference},
    front::{Answer, Front, More, Running, again, ask, ask_with, double, quiet},
};

/// An answer of which something was read.
struct Rest {
    read: String,
    answer: Answer,
}

impl Rest {
    /// All of it.
    async fn rest(self) -> String {
        self.read + &self.answer.rest().await
    }

    async fn failure(self) -> Status {
        self.answer.failure().await.1
    }
}

/// A gateway with two replicas of inference, both in use.
struct Pair {
    front: Front,
    other: Inference,
    other_process: Running,
}

impl Pair {
    async fn with(config: &str) -> Self {
        let other = Inference::default();
        let other_process = double("inference", other.services());
        let front = Front::beside(config, More { inference: &[&other_process], ..More::default() });
        let pair = Self { front, other, other_process };
        pair.fit(2.0).await;
        pair.front.gateway.context.health.serving().await;
        pair
    }

    /// Waits until so many replicas are in use.
    async fn fit(&self, count: f64) {
        while self.front.sum("weft_rpc_client_replica_fit{peer=\"inference\"") != count {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The next generation, whoever is asked for it; and whether that is the first replica.
    async fn call(&self) -> (Call, bool) {
        tokio::select! {
            call = self.front.inference.call() => (call, true),
            call = self.other.call() => (call, false),
        }
    }

    /// An answer whose first words have been read.
    async fn in_the_middle(&self) -> (Rest, Call, bool) {
        let asking = self.front.asking(ask("tell me"));
        let (mut call, first) = self.call().await;
        call.start().await;
        let mut answer = asking.await.unwrap().unwrap();
        call.tokens(&[self.front.tokenizer.id("once upon a time "), self.front.tokenizer.id("there ")]).await;
        let read = answer.text(10).await;
        (Rest { read, answer }, call, first)
    }

    fn kill(&self, first: bool) {
        if first { self.front.processes.inference.kill() } else { self.other_process.kill() }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_replica_dies_is_asked_of_the_other_behind_what_was_said() {
    let pair = Pair::with("").await;
    let (answer, lost, first) = pair.in_the_middle().await;
    let asked = lost.request.clone();
    pair.kill(first);
    let (mut call, by_first) = pair.call().await;
    assert_ne!(by_first, first, "the dead one is asked again");
    let resumption = call.request.resumption.clone().expect("a resumption");
    let said = [pair.front.tokenizer.id("once upon a time "), pair.front.tokenizer.id("there ")];
    assert_eq!((resumption.token_ids, resumption.index), (said.to_vec(), 0));
    // Nothing else has changed, but that the seed is known now.
    let mut expected = asked;
    expected.sampling.get_or_insert_default().seed = Some(42);
    expected.resumption.clone_from(&call.request.resumption);
    assert_eq!(call.request, expected);
    call.start().await;
    call.tokens(&[pair.front.tokenizer.id("was a weaver")]).await;
    call.finish(FinishReason::Length, None).await;
    assert_eq!(answer.rest().await, "once upon a time there was a weaver");
    assert_eq!(
        pair.front.sum("weft_gateway_resumptions_total{service=\"inference\",outcome=\"resumed\"}"),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_met_its_stop_string_is_not_gone_on_with() {
    let pair = Pair::with("").await;
    let stop_strings = vec!["END".to_owned()];
    let options = GenerationOptions { n: Some(2), stop_strings, ..GenerationOptions::default() };
    let asking = pair.front.asking(ask_with("tell me", options));
    let (mut call, first) = pair.call().await;
    call.start().await;
    call.tokens_of(0, &[pair.front.tokenizer.id("once END of it")]).await;
    call.tokens_of(1, &[pair.front.tokenizer.id("once upon")]).await;
    quiet().await;
    pair.kill(first);
    let (mut call, _) = pair.call().await;
    assert_eq!(call.request.resumption.as_ref().unwrap().index, 1);
    call.start().await;
    call.end().await;
    let mut answer = asking.await.unwrap().unwrap();
    while answer.event().await.unwrap().is_some() {}
    assert!(!pair.front.inference.has_call().await && !pair.other.has_call().await);
}

#[tokio::test(start_paused = true)]
async fn what_the_loss_of_a_replica_cannot_cause_is_the_callers() {
    let pair = Pair::with("").await;
    for status in [
        with_reason(Code::Internal, "INTERNAL", "broke"),
        Status::invalid_argument("no"),
        Status::deadline_exceeded("late"),
    ] {
        let code = status.code();
        let (answer, call, _) = pair.in_the_middle().await;
        call.fail(status).await;
        let failure = answer.failure().await;
        assert_eq!(failure.code(), code, "{failure:?}");
    }
    assert_eq!(pair.front.sum("weft_gateway_resumptions_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_loses_replica_after_replica_is_given_up() {
    let pair = Pair::with("[resume]\nmax_per_answer = 2").await;
    let (answer, mut call, _) = pair.in_the_middle().await;
    for _ in 0..2 {
        call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
        call = pair.call().await.0;
        call.start().await;
        call.tokens(&[pair.front.tokenizer.id("and ")]).await;
    }
    call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
    assert_eq!(answer.failure().await.code(), Code::Unavailable);
    assert_eq!(
        pair.front.sum("weft_gateway_resumptions_total{service=\"inference\",outcome=\"refused\"}"),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_has_against_it_is_not_the_callers_fault() {
    let pair = Pair::with("").await;
    let (answer, call, first) = pair.in_the_middle().await;
    let other = if first { &pair.other } else { &pair.front.inference };
    other.refuse([Status::not_found("no such adapter")]);
    call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
    let status = answer.failure().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(
        pair.front.sum("weft_gateway_resumptions_total{service=\"inference\",outcome=\"failed\"}"),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_full_is_waited_for_within_the_patience() {
    let pair = Pair::with("").await;
    let (answer, call, _) = pair.in_the_middle().await;
    let full = || unavailable("QUEUE_FULL", "the queue is full", Some(Duration::from_millis(700)));
    for inference in [&pair.other, &pair.front.inference] {
        inference.refuse([full(), full()]);
    }
    call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
    let (mut call, _) = pair.call().await;
    call.start().await;
    call.finish(FinishReason::Length, None).await;
    answer.rest().await;
}

#[tokio::test(start_paused = true)]
async fn resumptions_have_a_budget() {
    let pair = Pair::with("[resume]\nbudget_reserve = 1\nbudget_ratio = 0.0").await;
    let (answer, call, _) = pair.in_the_middle().await;
    call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
    pair.call().await.0.fail(unavailable("STOPPING", "so does this", None)).await;
    drop(answer);
    let (answer, call, _) = pair.in_the_middle().await;
    call.fail(unavailable("STOPPING", "this replica is stopping", None)).await;
    assert_eq!(answer.failure().await.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn when_only_the_goodbye_is_lost_nothing_is_asked_again() {
    let pair = Pair::with("").await;
    let (answer, mut call, _) = pair.in_the_middle().await;
    call.tokens(&[pair.front.tokenizer.id("was")]).await;
    let lost = unavailable("STOPPING", "this replica is stopping", None);
    call.finish_and_fail(FinishReason::Length, lost).await;
    assert!(answer.rest().await.ends_with("was"));
    assert_eq!(pair.front.sum("weft_gateway_resumptions_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_replica_dies_before_its_first_token_is_made_at_the_other() {
    let pair = Pair::with("[retry]\nbudget_reserve = 0\nbudget_ratio = 0.0").await;
    let asking = pair.front.asking(ask("tell me"));
    let (_lost, first) = pair.call().await;
    pair.kill(first);
    let (mut call, by_first) = pair.call().await;
    assert_ne!(by_first, first);
    call.start().await;
    call.end().await;
    asking.await.unwrap().unwrap().whole().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_another_vocabulary_is_not_used_and_named() {
    let other = Inference::default();
    other.set_fingerprint("another");
    let other_process = double("inference", other.services());
    let front = Front::beside("", More { inference: &[&other_process], ..More::default() });
    let pair = Pair { front, other, other_process };
    pair.front.gateway.context.health.serving().await;
    for _ in 0..20 {
        let asking = pair.front.asking(ask("hi"));
        let (mut call, first) = pair.call().await;
        assert!(first, "the other is used");
        call.start().await;
        call.end().await;
        asking.await.unwrap().unwrap().whole().await;
    }
    assert_eq!(pair.front.sum("weft_rpc_client_replica_fit{peer=\"inference\""), 1.0);
    // Once it has the right one, it is used.
    pair.other.set_fingerprint("same");
    pair.fit(2.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_vocabulary_that_nobody_can_tell_is_refused_unless_that_is_allowed() {
    let front = Front::starting("");
    front.inference.set_fingerprint("");
    let status = loop {
        sleep(Duration::from_millis(50)).await;
        let conditions = front.gateway.context.health.conditions();
        if let Some(state) = conditions.into_iter().find(|state| state.name == "vocabulary")
            && state.reason.as_deref().is_some_and(|reason| reason.contains("do not fit"))
        {
            break front.chat(ask("hi")).await.err().unwrap();
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let front = Front::starting("[readiness]\nallow_unknown_vocabulary = true");
    front.inference.set_fingerprint("");
    front.gateway.context.health.serving().await;
}

#[tokio::test(start_paused = true)]
async fn the_gateway_is_ready_while_enough_replicas_are() {
    let pair = Pair::with("[readiness]\nmin_fit_share = 0.6").await;
    pair.kill(false);
    pair.front.gateway.context.health.not_serving().await;
    let failing = pair.front.gateway.context.health.conditions();
    let reason = failing.into_iter().find_map(|state| state.reason).unwrap();
    assert!(reason.contains("pipe") && reason.contains("cannot reach inference"), "{reason}");
    let _again = again("inference", &pair.other_process, pair.other.services());
    pair.front.gateway.context.health.serving().await;
    let pair = Pair::with("").await;
    pair.kill(false);
    pair.fit(1.0).await;
    assert!(pair.front.gateway.context.health.is_serving(), "one is enough");
}

impl Pair {
    /// Whether the first replica answers a prompt of eight tokens, of which those with the same salt have the cache.
    async fn answered_by_first(&self, salt: &str) -> bool {
        let options = GenerationOptions { cache_salt: Some(salt.to_owned()), ..GenerationOptions::default() };
        let asking = self.front.asking(ask_with("what is there to know of looms and", options));
        let (mut call, first) = self.call().await;
        let load = || self.front.sum("weft_rpc_client_replica_in_flight{peer=\"inference\"");
        assert!(load() >= 1.0);
        call.start().await;
        call.end().await;
        asking.await.unwrap().unwrap().whole().await;
        quiet().await;
        assert!(load() == 0.0, "its stream has ended");
        first
    }

    async fn embed(&self) {
        let embed = EmbedRequest { model: String::new(), inputs: vec!["how are you".to_owned()] };
        self.front.client.clone().embed(embed).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_goes_where_its_beginning_is() {
    let pair = Pair::with("[balance]\nblock_tokens = 4").await;
    let mut homes = Vec::new();
    for salt in ["a", "b", "c", "d", "e", "f"] {
        let home = pair.answered_by_first(salt).await;
        for _ in 0..4 {
            assert_eq!(pair.answered_by_first(salt).await, home, "{salt}");
        }
        homes.push(home);
    }
    assert!(homes.contains(&true) && homes.contains(&false), "prompts are spread: {homes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_call_that_takes_long_is_made_twice_and_a_generation_is_not() {
    let pair = Pair::with("[hedge]\nwindow = 16").await;
    for _ in 0..16 {
        pair.embed().await;
    }
    pair.front.inference.embed_takes(Duration::from_secs(20));
    let began = Instant::now();
    // One of two in turn has the slow replica first.
    for _ in 0..2 {
        pair.embed().await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(pair.front.sum("weft_gateway_hedges_total{service=\"inference\"") >= 1.0);

    let asking = pair.front.asking(ask("tell me"));
    let (mut call, _) = pair.call().await;
    assert!(timeout(Duration::from_secs(20), pair.call()).await.is_err(), "nobody else is asked");
    call.start().await;
    call.end().await;
    asking.await.unwrap().unwrap().whole().await;
}
