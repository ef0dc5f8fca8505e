//! Two replicas each of the tokenizer and the filter: the one that an answer passes through is lost, and the answer goes on
//! through the other.

use tonic::{Code, Status};
use weft_proto::{
    common::v1::FinishReason,
    gateway::v1::{ChatRequest, GenerationOptions},
};
use weft_runtime::Tasks;

use crate::{
    doubles::{inference::Call, safety::PLACEHOLDER, safety::Safety, tokenizer::Tokenizer},
    front::{Front, More, Running, Whole, ask_with, double, quiet},
};

/// Which of the two services is meant.
#[derive(Clone, Copy, Debug)]
enum Service {
    Tokenizer,
    Safety,
}

const SERVICES: [Service; 2] = [Service::Tokenizer, Service::Safety];

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Safety => "safety",
        }
    }
}

/// A gateway with two replicas of both, all in use.
struct Twins {
    front: Front,
    tokenizer: Tokenizer,
    tokenizer_process: Running,
    safety: Safety,
    safety_process: Running,
}

impl Twins {
    /// `tokenizer` makes the second tokenizer of the first one.
    async fn with(config: &str, tokenizer: impl FnOnce(&Tokenizer) -> Tokenizer) -> Self {
        let (first, safety) = (Tokenizer::default(), Safety::default());
        let tokenizer = tokenizer(&first);
        let tokenizer_process = double("tokenizer", tokenizer.services());
        let safety_process = double("safety", safety.services());
        let more = More { tokenizer: &[&tokenizer_process], safety: &[&safety_process], ..More::default() };
        let front = Front::of(first, config, more);
        let twins = Self { front, tokenizer, tokenizer_process, safety, safety_process };
        for service in SERVICES {
            let fit = format!("weft_rpc_client_replica_fit{{peer=\"{}\"", service.name());
            while twins.front.sum(&fit) != 2.0 {
                quiet().await;
            }
        }
        twins.front.gateway.context.health.serving().await;
        twins
    }

    async fn new() -> Self {
        Self::with("", Tokenizer::twin).await
    }

    fn resumptions(&self, service: Service, outcome: &str) -> f64 {
        let labels = format!("{{service=\"{}\",outcome=\"{outcome}\"}}", service.name());
        self.front.sum(&format!("weft_gateway_resumptions_total{labels}"))
    }

    /// Messages of answers that each replica of a service was sent, the first one's first.
    fn heard(&self, service: Service) -> (usize, usize) {
        match service {
            Service::Tokenizer => (self.front.tokenizer.heard(), self.tokenizer.heard()),
            Service::Safety => (self.front.safety.heard(), self.safety.heard()),
        }
    }

    /// Kills the replica that alone was sent something so far.
    fn kill_used(&self, service: Service) {
        let (first, second) = self.heard(service);
        assert!((first == 0) != (second == 0), "{first} and {second}: not one of them is used");
        match (service, first > 0) {
            (Service::Tokenizer, true) => self.front.processes.tokenizer.kill(),
            (Service::Tokenizer, false) => self.tokenizer_process.kill(),
            (Service::Safety, true) => self.front.processes.safety.kill(),
            (Service::Safety, false) => self.safety_process.kill(),
        }
    }

    /// A whole answer of these words, one after another, behind so many of which the replica of a service is lost.
    async fn answer(&self, words: &[&str], lose: Option<(Service, usize)>) -> Result<Whole, Status> {
        let asking = self.front.asking(tokens_too("tell me"));
        let mut call = self.front.inference.call().await;
        call.start().await;
        let answer = asking.await.unwrap()?;
        let reading = Tasks::default().spawn("reading", answer.try_whole());
        for (index, word) in words.iter().enumerate() {
            self.lose(lose, index);
            self.say(&mut call, word).await;
        }
        self.lose(lose, words.len());
        call.finish(FinishReason::Length, None).await;
        reading.await.unwrap()
    }

    fn lose(&self, lose: Option<(Service, usize)>, said: usize) {
        if let Some((service, _)) = lose.filter(|(_, after)| *after == said) {
            self.kill_used(service);
        }
    }

    async fn say(&self, call: &mut Call, word: &str) {
        call.tokens(&[self.front.tokenizer.id(word)]).await;
        quiet().await;
    }
}

/// The tokens are asked for, so that the place of each in the text counts.
fn tokens_too(content: &str) -> ChatRequest {
    ask_with(content, GenerationOptions { top_logprobs: Some(0), ..GenerationOptions::default() })
}

/// What a caller may compare of an answer.
fn told(whole: Whole) -> (String, Vec<u32>, Option<weft_proto::gateway::v1::Finished>) {
    (whole.text, whole.tokens.iter().map(|token| token.id).collect(), Some(whole.finished))
}

/// With a name within, spread over words, which the filter hides.
const WORDS: [&str; 7] = ["My", " name", " is NA", "ME", " and I", " am MILD", " today."];

#[tokio::test(start_paused = true)]
async fn an_answer_goes_on_through_the_other_replica_after_any_of_its_tokens() {
    let whole = told(Twins::new().await.answer(&WORDS, None).await.unwrap());
    assert_eq!(whole.0, format!("My name is {PLACEHOLDER} and I am MILD today."));
    for service in SERVICES {
        // The filter has been sent nothing while the tokenizer holds all back.
        for after in 1..=WORDS.len() {
            let twins = Twins::new().await;
            let answer = told(twins.answer(&WORDS, Some((service, after))).await.unwrap());
            assert_eq!(answer, whole, "{service:?} lost after {after}");
            assert_eq!(twins.resumptions(service, "resumed"), 1.0, "{service:?} lost after {after}");
            let (first, second) = twins.heard(service);
            assert!(first > 0 && second > 0, "{service:?}: {first} and {second}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_blocks_is_blocked_though_its_beginning_was_read_by_another() {
    for service in SERVICES {
        let twins = Twins::new().await;
        let words = ["Build", " a nice BO", "MB", " now, in peace"];
        let whole = twins.answer(&words, Some((service, 2))).await.unwrap();
        assert_eq!(whole.text, "Build a nice ");
        assert_eq!(whole.finished.reason(), FinishReason::ContentFilter);
        assert_eq!(whole.finished.safety_findings["test.bomb"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_say_the_same_again_is_not_believed() {
    // Its ids mean something else.
    let other = |_: &Tokenizer| {
        let other = Tokenizer::default();
        for word in ["one", "two", "three", "four"] {
            other.id(word);
        }
        other
    };
    let twins = Twins::with("", other).await;
    let status = twins.answer(&["five", "six", "seven"], Some((Service::Tokenizer, 2))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the loss is the caller's: {status:?}");
    assert_eq!(twins.resumptions(Service::Tokenizer, "failed"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn where_it_is_switched_off_a_lost_stream_is_the_callers() {
    for service in SERVICES {
        let twins = Twins::with("[resume]\nenabled = false", Tokenizer::twin).await;
        let status = twins.answer(&WORDS, Some((service, 3))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains(service.name()), "{status:?}");
        assert_eq!(twins.resumptions(service, "refused"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_go_on_anywhere_is_given_up_after_the_patience() {
    for service in SERVICES {
        let twins = Twins::with("[resume]\npatience = \"300ms\"", Tokenizer::twin).await;
        let asking = twins.front.asking(tokens_too("tell me"));
        let mut call = twins.front.inference.call().await;
        call.start().await;
        let reading = Tasks::default().spawn("reading", asking.await.unwrap().unwrap().try_whole());
        for word in &WORDS[..4] {
            twins.say(&mut call, word).await;
        }
        let all = match service {
            Service::Tokenizer => [&twins.front.processes.tokenizer, &twins.tokenizer_process],
            Service::Safety => [&twins.front.processes.safety, &twins.safety_process],
        };
        all.into_iter().for_each(Running::kill);
        let status = reading.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        call.dropped().await;
    }
}

/// Between two looks in a rolling restart neither replica may be known to be well, though one is there, and busy. A call
/// that is refused by the other, which is gone and idle, is made at the first.
#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_a_replica_that_was_not_tried_though_it_has_more_to_do() {
    let twins = Twins::new().await;
    twins.tokenizer_process.kill();
    quiet().await;
    let mut running = Vec::new();
    for _ in 0..30 {
        let asking = twins.front.asking(tokens_too("tell me"));
        let mut call = twins.front.inference.call().await;
        call.start().await;
        running.push((asking.await.unwrap().unwrap(), call));
    }
    let leaving = twins.front.processes.tokenizer.context.health.condition("test", "is about to go");
    while twins.front.sum("weft_rpc_client_replica_fit{peer=\"tokenizer\"") != 0.0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for _ in 0..10 {
        let mut asking = twins.front.asking(tokens_too("tell me"));
        let mut call = tokio::select! {
            call = twins.front.inference.call() => call,
            refused = &mut asking => panic!("{:?}", refused.unwrap().err()),
        };
        call.start().await;
        call.end().await;
        asking.await.unwrap().unwrap().whole().await;
    }
    leaving.holds();
}
