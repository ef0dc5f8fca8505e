//! The gateway under test, the doubles behind it, and a caller in front of it.

use std::{
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};
use tonic::{Request, Status, Streaming, body::Body};
use tower::Service;
use weft_gateway::{Config, Targets};
use weft_proto::{
    common::v1::{ChatMessage, Role},
    gateway::v1::{
        ChatRequest, ChatResponse, Finished, GenerationOptions, Started, TokenInfo, chat_response::Event,
        gateway_service_client::GatewayServiceClient,
    },
    kserve::grpc_inference_service_client::GrpcInferenceServiceClient,
};
use weft_runtime::{
    BoxError, Context, Process, RuntimeConfig, Services, Tasks,
    client::{self, ClientConfig, Members, Outgoing, Target},
    config, pipe,
    server::Incoming,
};

use crate::doubles::{inference::Inference, safety::Safety, tokenizer::Tokenizer};

/// A process that runs in this one.
pub(crate) struct Running {
    pub(crate) connector: pipe::Connector,
    pub(crate) context: Context,
    process: JoinHandle<Result<(), BoxError>>,
    stop: Arc<Notify>,
}

impl Running {
    /// As SIGTERM does it.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// How it ended.
    pub(crate) async fn ended(&mut self) -> Result<(), BoxError> {
        (&mut self.process).await.unwrap()
    }

    /// As `kill -9` does it.
    pub(crate) fn kill(&self) {
        self.process.abort();
        self.connector.refuse(true);
        self.connector.cut();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.abort();
    }
}

/// Starts a process; `start` is given its context.
pub(crate) fn run<S>(name: &'static str, start: impl FnOnce(Context) -> S) -> Running
where
    S: Future<Output = Result<Services, BoxError>> + Send + 'static,
{
    run_at(name, RuntimeConfig::default(), pipe::pipe(), start)
}

fn run_at<S>(
    name: &'static str,
    config: RuntimeConfig,
    (connector, incoming): (pipe::Connector, pipe::Incoming),
    start: impl FnOnce(Context) -> S,
) -> Running
where
    S: Future<Output = Result<Services, BoxError>> + Send + 'static,
{
    let process = Process::new(name, config);
    let (context, stop) = (process.context().clone(), Arc::<Notify>::default());
    let told = Arc::clone(&stop);
    let life = process.run(start(context.clone()), incoming, async move { told.notified().await });
    Running { connector, context, process: Tasks::default().spawn("process", life), stop }
}

/// Runs a double that is ready at once.
pub(crate) fn double(name: &'static str, services: Services) -> Running {
    run(name, |_| async { Ok(services) })
}

/// Runs a double again, at the address where it was.
pub(crate) fn again(name: &'static str, dead: &Running, services: Services) -> Running {
    let incoming = dead.connector.listen();
    dead.connector.refuse(false);
    run_at(name, RuntimeConfig::default(), (dead.connector.clone(), incoming), |_| async { Ok(services) })
}

/// Everything. Fields are dropped in order: the caller first.
pub(crate) struct Front {
    pub(crate) client: GatewayServiceClient<Caller>,
    pub(crate) gateway: Running,
    /// The door of the HTTP API.
    pub(crate) http: pipe::Connector,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) inference: Inference,
    pub(crate) safety: Safety,
    pub(crate) processes: Processes,
}

pub(crate) struct Processes {
    pub(crate) tokenizer: Running,
    pub(crate) inference: Running,
    pub(crate) safety: Running,
}

/// Replicas beside the first of each service.
#[derive(Clone, Copy, Default)]
pub(crate) struct More<'a> {
    pub(crate) tokenizer: &'a [&'a Running],
    pub(crate) inference: &'a [&'a Running],
    pub(crate) safety: &'a [&'a Running],
}

fn members(first: &Running, more: &[&Running]) -> Members {
    let all = std::iter::once(&first).chain(more);
    Members::Fixed(all.map(|running| Target::Pipe(running.connector.clone())).collect())
}

impl Front {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// With these lines of configuration, once the gateway is ready.
    pub(crate) async fn with(config: &str) -> Self {
        let front = Self::starting(config);
        front.gateway.context.health.serving().await;
        front
    }

    /// With these lines of configuration, ready or not.
    pub(crate) fn starting(config: &str) -> Self {
        Self::beside(config, More::default())
    }

    /// The same, with more replicas.
    pub(crate) fn beside(config: &str, more: More<'_>) -> Self {
        Self::within(RuntimeConfig::default(), config, more)
    }

    /// The same, in a process of this configuration.
    pub(crate) fn within(process: RuntimeConfig, config: &str, more: More<'_>) -> Self {
        Self::all(Tokenizer::default(), process, config, more)
    }

    /// With this tokenizer and more replicas.
    pub(crate) fn of(tokenizer: Tokenizer, config: &str, more: More<'_>) -> Self {
        Self::all(tokenizer, RuntimeConfig::default(), config, more)
    }

    fn all(tokenizer: Tokenizer, process: RuntimeConfig, config: &str, more: More<'_>) -> Self {
        let (inference, safety) = (Inference::default(), Safety::default());
        let processes = Processes {
            tokenizer: double("tokenizer", tokenizer.services()),
            inference: double("inference", inference.services()),
            safety: double("safety", safety.services()),
        };
        let targets = Targets {
            tokenizer: members(&processes.tokenizer, more.tokenizer),
            inference: members(&processes.inference, more.inference),
            safety: members(&processes.safety, more.safety),
        };
        let config = parse(config);
        let (http, incoming) = pipe::pipe();
        let door = Some(Incoming::of(incoming));
        let start = |context| weft_gateway::start_with(config, context, targets, door);
        let gateway = run_at("gateway", process, pipe::pipe(), start);
        let client = GatewayServiceClient::new(connect(&gateway));
        Self { client, gateway, http, tokenizer, inference, safety, processes }
    }

    /// The sum of the gateway's series that start so.
    pub(crate) fn sum(&self, start: &str) -> f64 {
        let page = self.gateway.context.metrics.encode();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A caller that speaks the Open Inference Protocol.
    pub(crate) fn kserve(&self) -> GrpcInferenceServiceClient<Caller> {
        GrpcInferenceServiceClient::new(connect(&self.gateway))
    }

    /// Asks, and waits until the answer begins.
    pub(crate) async fn chat(&self, request: impl tonic::IntoRequest<ChatRequest>) -> Result<Answer, Status> {
        let stream = self.client.clone().chat(request).await?.into_inner();
        Ok(Answer { stream })
    }

    /// Asks in a task of its own: for tests that play the services' part meanwhile.
    pub(crate) fn asking(&self, request: ChatRequest) -> JoinHandle<Result<Answer, Status>> {
        Tasks::default().spawn("asking", open(self.client.clone(), request))
    }
}

async fn open(mut client: GatewayServiceClient<Caller>, request: ChatRequest) -> Result<Answer, Status> {
    let stream = client.chat(request).await?.into_inner();
    Ok(Answer { stream })
}

/// Each service must be named; where it is stands in the targets.
fn parse(lines: &str) -> Config {
    let services =
        ["tokenizer", "inference", "safety"].map(|name| format!("[{name}]\naddress = \"http://pipe\"\n"));
    config::parse(&format!("{}{lines}", services.concat()), &[]).unwrap()
}

/// The caller's connection under a name of its own: the compiler cannot see that a future over a boxed service with a
/// boxed error may be sent to another thread.
#[derive(Clone)]
pub(crate) struct Caller(Outgoing);

impl Service<http::Request<Body>> for Caller {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = <Outgoing as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

fn connect(gateway: &Running) -> Caller {
    let caller = Process::new("caller", RuntimeConfig::default()).context().clone();
    let target = Target::Pipe(gateway.connector.clone());
    Caller(client::connect(&caller, "gateway", target, &ClientConfig::default()).unwrap())
}

/// An answer as the caller reads it.
pub(crate) struct Answer {
    stream: Streaming<ChatResponse>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) started: Started,
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenInfo>,
    pub(crate) finished: Finished,
}

impl Answer {
    /// The next event, or `None` after the last.
    pub(crate) async fn event(&mut self) -> Result<Option<Event>, Status> {
        Ok(self.stream.message().await?.map(|message| message.event.unwrap()))
    }

    /// Reads until this much text has come.
    pub(crate) async fn text(&mut self, length: usize) -> String {
        let mut text = String::new();
        while text.len() < length {
            match self.event().await.unwrap() {
                Some(Event::Started(_)) => {}
                Some(Event::Delta(delta)) => text.push_str(&delta.text),
                other => panic!("{text:?}, then {other:?}"),
            }
        }
        text
    }

    /// Reads to the end: the text that came, and the error that ended it.
    pub(crate) async fn failure(mut self) -> (String, Status) {
        let mut text = String::new();
        loop {
            match self.event().await {
                Ok(Some(Event::Started(_))) => {}
                Ok(Some(Event::Delta(delta))) => text.push_str(&delta.text),
                Ok(other) => panic!("{text:?}, then {other:?} and no error"),
                Err(status) => return (text, status),
            }
        }
    }

    /// Reads to the end: the text that came.
    pub(crate) async fn rest(mut self) -> String {
        let mut text = String::new();
        loop {
            match self.event().await.unwrap() {
                Some(Event::Delta(delta)) => text.push_str(&delta.text),
                Some(Event::Finished(_)) => return text,
                other => panic!("{text:?}, then {other:?}"),
            }
        }
    }

    /// Reads it all, and checks its shape.
    pub(crate) async fn whole(self) -> Whole {
        self.try_whole().await.unwrap()
    }

    /// The same, if it does not fail.
    pub(crate) async fn try_whole(mut self) -> Result<Whole, Status> {
        let Some(Event::Started(started)) = self.event().await? else { panic!("no Started") };
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let finished = loop {
            match self.event().await? {
                Some(Event::Delta(delta)) => {
                    text.push_str(&delta.text);
                    tokens.extend(delta.tokens);
                }
                Some(Event::Finished(finished)) => break finished,
                other => panic!("{text:?}, then {other:?}"),
            }
        };
        assert!(self.event().await?.is_none(), "something came after Finished");
        Ok(Whole { started, text, tokens, finished })
    }
}

/// A conversation of one message.
pub(crate) fn ask(content: &str) -> ChatRequest {
    let message =
        ChatMessage { role: Role::User.into(), content: content.to_owned(), ..ChatMessage::default() };
    ChatRequest { messages: vec![message], ..ChatRequest::default() }
}

/// The same, with options.
pub(crate) fn ask_with(content: &str, options: GenerationOptions) -> ChatRequest {
    ChatRequest { options: Some(options), ..ask(content) }
}

/// With this much time.
pub(crate) fn within(time: Duration, request: ChatRequest) -> Request<ChatRequest> {
    let mut request = Request::new(request);
    request.set_timeout(time);
    request
}

/// Waits until nothing moves any more: a paused clock goes on only when every task waits.
pub(crate) async fn quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
