//! A client of the gateway, written as a user would write it: a plain tonic channel, none of our layers.

use hyper_util::rt::TokioIo;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use weft_proto::{
    common::v1::{ChatMessage, FinishReason, Role, SamplingParams, StopConditions},
    gateway::v1::{
        ChatRequest, ChatResponse, Finished, GenerationOptions, Started, TextDelta, chat_response::Event,
        gateway_service_client::GatewayServiceClient,
    },
};
use weft_runtime::pipe::Connector;

/// A client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The generated client, for what the shortcuts do not cover.
    pub client: GatewayServiceClient<Channel>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its first message.
    pub started: Started,
    /// Its text.
    pub text: String,
    /// Its pieces.
    pub deltas: Vec<TextDelta>,
    /// Its last message.
    pub finished: Finished,
}

impl Answer {
    /// Why it ended.
    pub fn reason(&self) -> FinishReason {
        self.finished.reason()
    }

    /// Tokens that were generated.
    pub fn completion_tokens(&self) -> u32 {
        self.finished.usage.unwrap_or_default().completion_tokens
    }
}

impl Caller {
    /// A client of whoever listens there.
    pub fn new(connector: Connector) -> Self {
        let client = GatewayServiceClient::new(channel(connector));
        Self { client }
    }

    /// A whole answer to one question, greedily, within `max_tokens`.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn ask(&self, question: &str, max_tokens: u32) -> Result<Answer, Status> {
        self.answer(chat(question, greedy(max_tokens))).await
    }

    /// A whole answer.
    ///
    /// # Errors
    /// What the gateway says, at once or in the middle of the stream.
    pub async fn answer(&self, request: impl tonic::IntoRequest<ChatRequest>) -> Result<Answer, Status> {
        collect(self.stream(request).await?).await
    }

    /// The stream of an answer.
    ///
    /// # Errors
    /// What the gateway says at once.
    pub async fn stream(
        &self,
        request: impl tonic::IntoRequest<ChatRequest>,
    ) -> Result<Streaming<ChatResponse>, Status> {
        Ok(self.client.clone().chat(request).await?.into_inner())
    }
}

/// A lazy channel through a pipe.
pub fn channel(connector: Connector) -> Channel {
    let connect = tower::service_fn(move |_| {
        let connection = connector.connect();
        async { connection.map(TokioIo::new) }
    });
    Endpoint::from_static("http://pipe").connect_with_connector_lazy(connect)
}

/// Reads a stream to its end.
///
/// # Errors
/// What the gateway says in the middle of the stream.
pub async fn collect(mut stream: Streaming<ChatResponse>) -> Result<Answer, Status> {
    let mut answer = Answer::default();
    while let Some(message) = stream.message().await? {
        match message.event {
            Some(Event::Started(started)) => answer.started = started,
            Some(Event::Delta(delta)) => {
                answer.text.push_str(&delta.text);
                answer.deltas.push(delta);
            }
            Some(Event::Finished(finished)) => answer.finished = finished,
            None => return Err(Status::data_loss("a message without an event")),
        }
    }
    Ok(answer)
}

/// One question.
pub fn chat(question: &str, options: GenerationOptions) -> ChatRequest {
    let message = ChatMessage { role: Role::User.into(), content: question.to_owned(), ..Default::default() };
    ChatRequest { messages: vec![message], options: Some(options), ..Default::default() }
}

/// Greedy decoding within `max_tokens`.
pub fn greedy(max_tokens: u32) -> GenerationOptions {
    GenerationOptions {
        sampling: Some(SamplingParams { temperature: Some(0.0), ..Default::default() }),
        stop: Some(StopConditions { max_tokens: Some(max_tokens), ..Default::default() }),
        ..Default::default()
    }
}

/// A request with a deadline.
pub fn within(timeout: std::time::Duration, request: ChatRequest) -> Request<ChatRequest> {
    let mut request = Request::new(request);
    request.set_timeout(timeout);
    request
}
