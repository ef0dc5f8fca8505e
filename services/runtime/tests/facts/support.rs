//! A scripted service, on a pipe, in a process of ours or in a bare server that does nothing for it.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::tokenizer::v1::{
    DecodeRequest, DecodeResponse, DecodeStreamRequest, DecodeStreamResponse, EncodeChatRequest,
    EncodeChatResponse, EncodeRequest, EncodeResponse, GetTokenizerInfoRequest, GetTokenizerInfoResponse,
    SpellRequest, SpellResponse,
    tokenizer_service_client::TokenizerServiceClient,
    tokenizer_service_server::{TokenizerService, TokenizerServiceServer},
};
use weft_runtime::{
    BoxError, Context, Deadline, Process, RuntimeConfig, Services, Tasks,
    client::{self, ClientConfig, Outgoing, Target},
    pipe::{self, Connector, Incoming},
    status, telemetry,
    tls::PeerIdentity,
};

pub(crate) type Client = TokenizerServiceClient<Outgoing>;
pub(crate) const ENCODE: &str = "weft.tokenizer.v1.TokenizerService/Encode";
pub(crate) const STREAM: &str = "weft.tokenizer.v1.TokenizerService/DecodeStream";

/// Does what the request's text or first id says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripted;

pub(crate) const ECHO: u32 = 0;
pub(crate) const STALL: u32 = 1;
pub(crate) const FAIL: u32 = 2;
pub(crate) const PANIC: u32 = 3;
pub(crate) const FLOOD: u32 = 4;

#[derive(Debug, thiserror::Error)]
#[error("the weights are torn")]
struct Torn(#[source] std::io::Error);

#[tonic::async_trait]
impl TokenizerService for Scripted {
    async fn encode(&self, request: Request<EncodeRequest>) -> Result<Response<EncodeResponse>, Status> {
        let timeout =
            request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()).map(str::to_owned);
        match request.into_inner().text.as_str() {
            "panic" => panic!("on purpose"),
            "wait" => std::future::pending().await,
            "internal" => {
                Err(status::answer(tonic::Code::Internal, &Torn(std::io::Error::other("bad sector"))))
            }
            "bare internal" => Err(Status::internal("made by something else")),
            "violations" => {
                let mut violations = status::Violations::new();
                for index in 0..4096 {
                    let long = "x".repeat(100_000);
                    violations.push(format!("texts[{index}]"), format!("is {long}; must be shorter"));
                }
                violations.into_result()?;
                Ok(Response::new(EncodeResponse::default()))
            }
            "cancelled" => Err(Status::cancelled("on purpose")),
            "cancelled in time" => {
                // As tonic's servers do: they give up when the time is up and call it CANCELLED.
                let micros: u64 = timeout.and_then(|text| text.strip_suffix('u')?.parse().ok()).unwrap();
                tokio::time::sleep(Duration::from_micros(micros)).await;
                Err(Status::cancelled("Timeout expired"))
            }
            text => Ok(Response::new(EncodeResponse { token_ids: text.bytes().map(u32::from).collect() })),
        }
    }

    async fn encode_chat(
        &self,
        _: Request<EncodeChatRequest>,
    ) -> Result<Response<EncodeChatResponse>, Status> {
        Err(status::unserved("tools"))
    }

    async fn spell(&self, _: Request<SpellRequest>) -> Result<Response<SpellResponse>, Status> {
        Err(status::unserved("spelling"))
    }

    async fn decode(&self, request: Request<DecodeRequest>) -> Result<Response<DecodeResponse>, Status> {
        let size = request.into_inner().token_ids.first().copied().unwrap_or_default() as usize;
        Ok(Response::new(DecodeResponse { text: "x".repeat(size) }))
    }

    type DecodeStreamStream = Pin<Box<dyn Stream<Item = Result<DecodeStreamResponse, Status>> + Send>>;

    async fn decode_stream(
        &self,
        request: Request<Streaming<DecodeStreamRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        let answers = request.into_inner().flat_map(|request| {
            let script = request.map(|request| request.token_ids.first().copied().unwrap_or_default());
            let text = Ok(DecodeStreamResponse { text: "text".to_owned() });
            let said = futures::stream::once(async { text });
            match script {
                Ok(FLOOD) => said.chain(futures::stream::repeat_with(flood)).boxed(),
                Ok(STALL) => said.chain(futures::stream::pending()).boxed(),
                // tonic sends what is ready as one; a pause lets the first message go out alone.
                Ok(FAIL) => said.chain(after_a_pause(|| Err(Status::data_loss("torn")))).boxed(),
                Ok(PANIC) => said.chain(after_a_pause(|| panic!("on purpose"))).boxed(),
                Ok(_) => said.boxed(),
                Err(status) => futures::stream::once(async { Err(status) }).boxed(),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    /// Tells what the handler knows of the call: milliseconds left, and whom the caller's certificate names.
    async fn get_tokenizer_info(
        &self,
        request: Request<GetTokenizerInfoRequest>,
    ) -> Result<Response<GetTokenizerInfoResponse>, Status> {
        let left = Deadline::of(&request).and_then(Deadline::remaining).unwrap_or_default();
        let names = PeerIdentity::of(&request).map(|caller| caller.names().join(",")).unwrap_or_default();
        Ok(Response::new(GetTokenizerInfoResponse {
            vocabulary_size: u32::try_from(left.as_millis()).unwrap(),
            version: names,
            ..Default::default()
        }))
    }
}

/// More than a stream may have unread, in a few messages.
fn flood() -> Result<DecodeStreamResponse, Status> {
    Ok(DecodeStreamResponse { text: "x".repeat(32 << 10) })
}

fn after_a_pause<T: Send>(then: impl FnOnce() -> T + Send) -> impl Stream<Item = T> + Send {
    futures::stream::once(async {
        tokio::task::yield_now().await;
        then()
    })
}

pub(crate) fn server() -> TokenizerServiceServer<Scripted> {
    TokenizerServiceServer::new(Scripted)
}

/// A process with telemetry, as in production.
///
/// `tracing` remembers of each call site whether anybody wants it, and may remember a no for good if the site is first
/// passed while another test's recorder is being installed. So there is one subscriber from the beginning.
fn process(service: &'static str, config: RuntimeConfig) -> Process {
    telemetry::test::global();
    Process::new(service, config)
}

/// A process of ours that runs on a pipe.
pub(crate) struct Served {
    pub(crate) context: Context,
    pub(crate) connector: Connector,
    pub(crate) running: JoinHandle<Result<(), BoxError>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Served {
    /// The scripted service, serving.
    pub(crate) async fn with(config: RuntimeConfig) -> Self {
        let served = Self::starting(config, async { Ok(Services::new().add(server())) });
        served.context.health.serving().await;
        served
    }

    pub(crate) async fn new() -> Self {
        Self::with(RuntimeConfig::default()).await
    }

    /// A process whose start is the test's.
    pub(crate) fn starting(
        config: RuntimeConfig,
        start: impl Future<Output = Result<Services, BoxError>> + Send + 'static,
    ) -> Self {
        let (connector, incoming) = pipe::pipe();
        let process = process("tokenizer", config);
        let context = process.context().clone();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or(()) };
        let running = Tasks::default().spawn("process", process.run(start, incoming, stopped));
        Self { context, connector, running, stop: Some(stop) }
    }

    /// Starts again what was stopped or killed, at the same address.
    pub(crate) async fn again(&self) -> Self {
        let incoming = self.connector.listen();
        let process = process("tokenizer", RuntimeConfig::default());
        let context = process.context().clone();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or(()) };
        let start = async { Ok::<_, BoxError>(Services::new().add(server())) };
        let running = Tasks::default().spawn("process", process.run(start, incoming, stopped));
        context.health.serving().await;
        Self { context, connector: self.connector.clone(), running, stop: Some(stop) }
    }

    /// Tells it to stop.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.outgoing())
    }

    pub(crate) fn outgoing(&self) -> Outgoing {
        outgoing(&self.connector, &ClientConfig::default())
    }
}

/// A process that only calls.
pub(crate) fn caller() -> Context {
    process("gateway", RuntimeConfig::default()).context().clone()
}

pub(crate) fn outgoing(connector: &Connector, config: &ClientConfig) -> Outgoing {
    client::connect(&caller(), "tokenizer", Target::Pipe(connector.clone()), config).unwrap()
}

/// The scripted service in a server without a single layer of ours: what a client must cope with.
pub(crate) fn bare_server(mut incoming: Incoming) -> JoinHandle<()> {
    let routes = tonic::service::Routes::new(server()).prepare();
    Tasks::default().spawn("bare server", async move {
        while let Some(Ok(io)) = incoming.next().await {
            let service = TowerToHyperService::new(routes.clone());
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            Tasks::default().spawn("connection", http2.serve_connection(TokioIo::new(io), service));
        }
    })
}

/// A client without a single layer of ours: it has no clock.
pub(crate) fn bare_client(connector: &Connector) -> TokenizerServiceClient<tonic::transport::Channel> {
    let connector = connector.clone();
    let connect = tower::service_fn(move |_| {
        let pipe = connector.connect();
        async move { pipe.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://pipe");
    TokenizerServiceClient::new(endpoint.connect_with_connector_lazy(connect))
}

pub(crate) fn encode(text: &str) -> EncodeRequest {
    EncodeRequest { text: text.to_owned(), ..Default::default() }
}

/// A request stream that stays open after these scripts.
pub(crate) fn scripts(scripts: &[u32]) -> impl Stream<Item = DecodeStreamRequest> + Send + 'static {
    let requests: Vec<_> = scripts
        .iter()
        .map(|script| DecodeStreamRequest { token_ids: vec![*script], ..Default::default() })
        .collect();
    futures::stream::iter(requests).chain(futures::stream::pending())
}

/// One message of an answer.
pub(crate) async fn text(stream: &mut Streaming<DecodeStreamResponse>) -> String {
    stream.message().await.unwrap().unwrap().text
}

/// The sum of the series of `/metrics` whose lines start with `name`: their order is no promise.
pub(crate) fn metric(context: &Context, name: &str) -> f64 {
    let page = context.metrics.encode();
    let series: Vec<f64> = page
        .lines()
        .filter(|line| line.starts_with(name))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!series.is_empty(), "no {name} in:\n{page}");
    series.iter().sum()
}
