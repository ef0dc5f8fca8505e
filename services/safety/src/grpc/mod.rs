//! The door: wire types in, domain types inside, wire types out.
//!
//! Map: this module (Screen, ListPolicies), `stream` (ScreenStream), `wire` (domain types as wire types).

mod stream;
mod wire;

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::{sync::Semaphore, task::yield_now, time::Instant};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span, field, info_span};
use weft_proto::safety::v1::{
    ListPoliciesRequest, ListPoliciesResponse, ScreenRequest, ScreenResponse, ScreenStreamRequest,
    ScreenStreamResponse,
    safety_service_server::{SafetyService, SafetyServiceServer},
};
use weft_runtime::{status::Violations, telemetry::fields};

use crate::{
    config::Limits,
    metrics::Metrics,
    policy::Policy,
    reload::InForce,
    verdict::{Direction, Verdict},
    window::Window,
};

/// The gRPC service for the policies in force.
pub(crate) fn service(
    policies: InForce,
    limits: Limits,
    metrics: Metrics,
) -> SafetyServiceServer<impl SafetyService> {
    let streams = Arc::new(Semaphore::new(limits.max_streams));
    SafetyServiceServer::new(Safety { policies, limits, metrics, streams })
        // The runtime bounds messages (`server.max_message_bytes`); tonic's own 4 MiB would only hide that.
        .max_decoding_message_size(usize::MAX)
}

/// What every call shares.
#[derive(Clone, Debug)]
struct Safety {
    policies: InForce,
    limits: Limits,
    metrics: Metrics,
    /// One permit for each stream that may be open.
    streams: Arc<Semaphore>,
}

/// What a call asks to be done with its text.
#[derive(Clone, Debug)]
struct Order {
    policy: Arc<Policy>,
    direction: Direction,
}

impl Order {
    fn window(&self) -> Window {
        Window::new(Arc::clone(self.policy.program(self.direction)))
    }
}

impl Safety {
    /// Reads the fields that say what to do; `taken` bytes of text came before this text.
    fn order(&self, policy: &str, direction: i32, text: &str) -> Result<Order, Status> {
        let mut violations = Violations::new();
        let policies = self.policies.load();
        let found = policies.find(policy).cloned();
        violations.require(found.is_some(), "policy", || {
            let known: Vec<&str> = policies.list().iter().map(|policy| &*policy.name).collect();
            format!("is {policy:?}; must be empty or one of {}", known.join(", "))
        });
        let direction = wire::read_direction(direction, &mut violations);
        self.check_text(0, text, &mut violations);
        violations.into_result()?;
        match (found, direction) {
            (Some(policy), Some(direction)) => Ok(Order { policy, direction }),
            _ => Err(Status::internal("a missing value was not reported")),
        }
    }

    fn check_text(&self, taken: usize, text: &str, violations: &mut Violations) {
        let (total, most) = (taken + text.len(), self.limits.max_text_bytes);
        violations.require(total <= most, "text", || match taken {
            0 => format!("is {total} bytes long; must be at most {most}"),
            taken => {
                format!("is {} bytes long after {taken} bytes; must be at most {most} together", text.len())
            }
        });
    }

    /// Puts a text through a window, and counts.
    async fn push(&self, window: &mut Window, text: &str, direction: Direction) -> Verdict {
        self.metrics.take(text.len(), direction);
        let mut verdict = Verdict::default();
        let mut pieces = pieces(text).peekable();
        while let Some(piece) = pieces.next() {
            verdict.append(window.push(piece));
            if pieces.peek().is_some() {
                yield_now().await;
            }
        }
        self.metrics.count(&verdict.findings, direction);
        verdict
    }

    async fn whole(&self, order: &Order, text: &str) -> Verdict {
        let started = Instant::now();
        let mut window = order.window();
        let mut verdict = self.push(&mut window, text, order.direction).await;
        let last = window.finish();
        self.metrics.count(&last.findings, order.direction);
        verdict.append(last);
        self.metrics.screen_seconds.observe(started.elapsed().as_secs_f64());
        verdict
    }
}

/// How much of a text is screened before others get their turn, in bytes: some hundreds of microseconds.
const TURN_BYTES: usize = 16 << 10;

/// A text in pieces that are short enough for one turn; an empty text has none.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(TURN_BYTES));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The span of one text. Says how much was found, never what.
fn span(name: Screening, order: &Order) -> Span {
    let (policy, direction) = (&*order.policy.name, order.direction.word());
    macro_rules! screening {
        ($name:literal) => {
            info_span!(
                target: fields::SPANS,
                $name,
                weft.policy = policy,
                weft.direction = direction,
                weft.text_bytes = field::Empty,
                weft.findings = field::Empty,
                weft.action = field::Empty
            )
        };
    }
    match name {
        Screening::Whole => screening!("screen"),
        Screening::Stream => screening!("screen_stream"),
    }
}

/// How a text comes.
#[derive(Clone, Copy, Debug)]
enum Screening {
    Whole,
    Stream,
}

#[tonic::async_trait]
impl SafetyService for Safety {
    type ScreenStreamStream = BoxStream<'static, Result<ScreenStreamResponse, Status>>;

    async fn screen(&self, request: Request<ScreenRequest>) -> Result<Response<ScreenResponse>, Status> {
        let ScreenRequest { policy, direction, text } = request.into_inner();
        let order = self.order(&policy, direction, &text)?;
        let span = span(Screening::Whole, &order);
        let verdict = self.whole(&order, &text).instrument(span.clone()).await;
        span.record("weft.text_bytes", text.len());
        span.record("weft.findings", verdict.findings.len());
        span.record("weft.action", verdict.action().word());
        Ok(Response::new(wire::screened(verdict, self.limits.max_findings)))
    }

    async fn screen_stream(
        &self,
        request: Request<Streaming<ScreenStreamRequest>>,
    ) -> Result<Response<Self::ScreenStreamStream>, Status> {
        let answers = stream::answers(self.clone(), request.into_inner())?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_policies(
        &self,
        _request: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let policies = self.policies.load();
        Ok(Response::new(ListPoliciesResponse {
            policies: policies.list().iter().map(|policy| wire::policy(policy)).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
