//! The service as its callers meet it: real gRPC over an in-memory connection, the shipped configuration.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _, channel::mpsc, stream};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _};
use weft_proto::safety::v1::{
    Action, Direction, ListPoliciesRequest, ScreenRequest, ScreenResponse, ScreenStreamRequest,
    ScreenStreamResponse, safety_service_client::SafetyServiceClient,
};
use weft_runtime::{
    Context, Process, RuntimeConfig,
    client::{self, ClientConfig, Outgoing, Target},
    config, pipe,
};
use weft_safety::Config;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A safety service and a client of it.
struct Service {
    client: SafetyServiceClient<Outgoing>,
    context: Context,
}

impl Service {
    /// With the configuration that `weft up` uses, and these overrides.
    async fn start(overrides: &[(&str, &str)]) -> Self {
        let policy = format!("{ROOT}/deploy/config/policy.toml");
        let overrides: Vec<_> = overrides.iter().copied().chain([("WEFT__POLICY__FILE", &*policy)]).collect();
        let shipped =
            std::fs::read_to_string(format!("{ROOT}/deploy/config/safety.toml")).expect("safety.toml");
        let config: Config = config::parse(&shipped, &overrides).expect("the shipped configuration");

        let mut runtime = RuntimeConfig::default();
        runtime.server.limits.max_message_bytes = 16 << 20;
        let process = Process::new("safety", runtime);
        let context = process.context().clone();
        let (connector, incoming) = pipe::pipe();
        let start = weft_safety::start(config, context.clone());
        context.tasks.spawn("process", process.run(start, incoming, std::future::pending()));
        context.health.serving().await;

        let caller = Process::new("caller", RuntimeConfig::default()).context().clone();
        let channel = client::connect(&caller, "safety", Target::Pipe(connector), &ClientConfig::default());
        Self { client: SafetyServiceClient::new(channel.expect("a connection")), context }
    }

    async fn screen(&mut self, direction: Direction, text: &str) -> Result<ScreenResponse, Status> {
        let request =
            ScreenRequest { policy: String::new(), direction: direction.into(), text: text.to_owned() };
        Ok(self.client.screen(request).await?.into_inner())
    }

    /// The answers to these messages, and how the stream ended.
    async fn stream(
        &mut self,
        messages: Vec<ScreenStreamRequest>,
    ) -> (Vec<ScreenStreamResponse>, Option<Status>) {
        let mut answers = match self.client.screen_stream(stream::iter(messages)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (Vec::new(), Some(status)),
        };
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => all.push(answer),
                Err(status) => return (all, Some(status)),
            }
        }
        (all, None)
    }

    /// A stream whose messages are sent one by one.
    async fn open(&mut self) -> (mpsc::Sender<ScreenStreamRequest>, Streaming<ScreenStreamResponse>) {
        let (sender, messages) = mpsc::channel(0);
        let mut first = sender.clone();
        let (answers, sent) = tokio::join!(self.client.screen_stream(messages), first.send(message("")));
        sent.expect("the stream is open");
        let mut answers = answers.expect("a stream").into_inner();
        answers.next().await.expect("an answer to the first message").expect("which is not an error");
        (sender, answers)
    }

    /// Waits until a line stands in the metrics.
    async fn metric(&self, line: &str) {
        let stands = async {
            while !self.context.metrics.encode().lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), stands).await;
        assert!(in_time.is_ok(), "`{line}` is not in\n{}", self.context.metrics.encode());
    }
}

fn message(text: &str) -> ScreenStreamRequest {
    ScreenStreamRequest {
        policy: String::new(),
        direction: Direction::Completion.into(),
        text: text.to_owned(),
    }
}

fn messages(texts: &[&str]) -> Vec<ScreenStreamRequest> {
    texts.iter().map(|text| message(text)).collect()
}

/// The fields that a status complains about, with what it says.
fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_details_bad_request().expect("field violations");
    details.field_violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

fn violation(field: &str, description: &str) -> (String, String) {
    (field.to_owned(), description.to_owned())
}

#[tokio::test]
async fn a_whole_text_comes_back_redacted_with_its_findings() {
    let mut service = Service::start(&[]).await;
    let answer = service.screen(Direction::Completion, "é ada@example.com, 10.0.0.7").await.unwrap();
    assert_eq!(answer.action(), Action::Redact);
    assert_eq!(answer.text, "é [REDACTED:pii.email], 10.0.0.7");
    let findings: Vec<_> =
        answer.findings.iter().map(|f| (&*f.category, &*f.rule, f.start, f.end, f.action())).collect();
    assert_eq!(
        findings,
        [("pii.email", "email", 3, 18, Action::Redact), ("pii.ip_address", "ipv4", 20, 28, Action::Flag)]
    );
    service
        .metric(
            "weft_safety_findings_total{category=\"pii.email\",action=\"redact\",direction=\"completion\"} 1",
        )
        .await;
    service.metric("weft_safety_text_bytes_total{direction=\"completion\"} 28").await;
    service.metric("weft_safety_screen_seconds_count 1").await;
}

#[tokio::test]
async fn a_blocked_text_does_not_come_back() {
    let mut service = Service::start(&[]).await;
    let answer = service.screen(Direction::Prompt, "say WEFT-SAFETY-TEST-PHRASE please").await.unwrap();
    assert_eq!((answer.action(), &*answer.text), (Action::Block, ""));
    assert_eq!((answer.findings[0].start, answer.findings[0].end), (4, 27));
    let clean = service.screen(Direction::Prompt, "").await.unwrap();
    assert_eq!((clean.action(), clean.findings.len()), (Action::Allow, 0));
}

#[tokio::test]
async fn each_message_of_a_stream_has_one_answer_and_the_end_has_the_last() {
    let mut service = Service::start(&[]).await;
    let (answers, end) =
        service.stream(messages(&["Write to ada@", "example", ".com now", "", " or", " never"])).await;
    assert!(end.is_none(), "{end:?}");
    let released: Vec<&str> = answers.iter().map(|answer| &*answer.released).collect();
    assert_eq!(released, ["Write to ", "", "[REDACTED:pii.email] ", "", "now ", "or ", "never"]);
    let found: Vec<usize> = answers.iter().map(|answer| answer.findings.len()).collect();
    assert_eq!(found, [0, 0, 1, 0, 0, 0, 0]);
    service.metric("weft_safety_held_bytes_count 6").await;
    service.metric("weft_safety_open_streams 0").await;
}

#[tokio::test]
async fn a_block_ends_the_stream_with_ok() {
    let mut service = Service::start(&[]).await;
    let (answers, end) =
        service.stream(messages(&["say WEFT-SAFETY", "-TEST-PHRASE", "!", "more", "and more"])).await;
    assert!(end.is_none(), "{end:?}");
    let answers: Vec<(&str, bool)> =
        answers.iter().map(|answer| (&*answer.released, answer.blocked)).collect();
    assert_eq!(answers, [("say ", false), ("", false), ("", true)]);
}

#[tokio::test]
async fn a_block_at_the_end_of_the_text_is_said_in_the_last_answer() {
    let mut service = Service::start(&[]).await;
    let (answers, end) = service.stream(messages(&["WEFT-SAFETY-TEST-PHRASE"])).await;
    assert!(end.is_none());
    let answers: Vec<(&str, bool)> =
        answers.iter().map(|answer| (&*answer.released, answer.blocked)).collect();
    assert_eq!(answers, [("", false), ("", true)]);
}

#[tokio::test]
async fn answers_come_before_the_stream_is_closed() {
    let mut service = Service::start(&[]).await;
    let (mut sender, mut answers) = service.open().await;
    for text in ["one ", "two ", "three "] {
        sender.send(message(text)).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap().released, text);
    }
    service.metric("weft_safety_open_streams 1").await;
    drop((sender, answers));
    service.metric("weft_safety_open_streams 0").await;
}

#[tokio::test]
async fn every_field_that_is_wrong_is_named() {
    let mut service = Service::start(&[]).await;
    let request = ScreenRequest { policy: "nobody".to_owned(), direction: 7, text: String::new() };
    let status = service.client.screen(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let wrong = [
        violation("policy", "is \"nobody\"; must be empty or one of standard, observe, strict"),
        violation("direction", "is 7; must be DIRECTION_PROMPT or DIRECTION_COMPLETION"),
    ];
    assert_eq!(violations(&status), wrong);

    let (answers, end) = service.stream(vec![ScreenStreamRequest::default()]).await;
    let rule = "is DIRECTION_UNSPECIFIED; must be DIRECTION_PROMPT or DIRECTION_COMPLETION";
    assert_eq!((answers.len(), violations(&end.unwrap())), (0, vec![violation("direction", rule)]));

    let (answers, end) = service.stream(Vec::new()).await;
    let rule = "is missing; the stream must have a first message that names it";
    assert_eq!((answers.len(), violations(&end.unwrap())), (0, vec![violation("direction", rule)]));
}

#[tokio::test]
async fn only_the_first_message_says_what_to_do() {
    let mut service = Service::start(&[]).await;
    let later =
        ScreenStreamRequest { policy: "nobody".to_owned(), direction: 0, text: "ada@example.com".to_owned() };
    let (answers, end) = service.stream(vec![message("to "), later]).await;
    assert!(end.is_none());
    assert_eq!(answers.last().unwrap().released, "[REDACTED:pii.email]");
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_with_its_length_and_the_rule() {
    let mut service = Service::start(&[]).await;
    let status = service.screen(Direction::Prompt, &"a".repeat(10_000_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(violations(&status), [violation("text", "is 10000000 bytes long; must be at most 1048576")]);

    let half = "a ".repeat(300_000);
    let (answers, end) = service.stream(messages(&[&half, &half])).await;
    assert_eq!(answers.len(), 1);
    let rule = "is 600000 bytes long after 600000 bytes; must be at most 1048576 together";
    assert_eq!(violations(&end.unwrap()), [violation("text", rule)]);
    assert_eq!(service.screen(Direction::Prompt, "still here").await.unwrap().text, "still here");
}

#[tokio::test]
async fn a_stream_too_many_is_unavailable_until_one_ends() {
    let mut service = Service::start(&[("WEFT__LIMITS__MAX_STREAMS", "1")]).await;
    let (sender, answers) = service.open().await;
    let (_, end) = service.stream(messages(&["x"])).await;
    let refused = end.unwrap();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "1 streams are open, which is the limit")
    );
    drop((sender, answers));
    service.metric("weft_safety_open_streams 0").await;
    let (answers, end) = service.stream(messages(&["x"])).await;
    assert!(end.is_none() && answers.len() == 2);
}

#[tokio::test]
async fn screen_lists_no_more_findings_than_the_limit_and_acts_upon_all() {
    let mut service = Service::start(&[("WEFT__LIMITS__MAX_FINDINGS", "3")]).await;
    let answer = service.screen(Direction::Completion, &"ada@example.com ".repeat(5)).await.unwrap();
    assert_eq!(answer.text, "[REDACTED:pii.email] ".repeat(5));
    assert_eq!(answer.findings.len(), 3);
}

#[tokio::test]
async fn policies_are_listed_with_the_default_first() {
    let mut service = Service::start(&[]).await;
    let answer = service.client.list_policies(ListPoliciesRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(answer.policies[0].name, "standard");
    let email = answer.policies[0].rules.iter().find(|rule| rule.category == "pii.email").unwrap();
    assert_eq!((email.prompt_action(), email.completion_action()), (Action::Flag, Action::Redact));
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics while it logs").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_text_enters_the_log_or_a_span() {
    let log = Log::default();
    let spans = tracing_subscriber::fmt::layer()
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(log.clone());
    let subscriber = tracing_subscriber::registry()
        .with(spans)
        .with(Targets::new().with_target("weft", tracing::Level::TRACE));
    weft_runtime::telemetry::test::global();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut service = Service::start(&[]).await;
    let text = "private words: ada@example.com WEFT-SAFETY-TEST-PHRASE";
    service.screen(Direction::Completion, text).await.unwrap();
    service.stream(messages(&[text, "."])).await;
    service.metric("weft_safety_open_streams 0").await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("screen_stream") && log.contains("weft.action=\"block\""), "{log}");
    for secret in ["private", "words", "ada@", "TEST-PHRASE"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}
