//! ScreenStream: one answer for each message, and one more at the end, unless the policy ends the text before.

use futures::{Stream, stream};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, Span};
use weft_proto::safety::v1::{ScreenStreamRequest, ScreenStreamResponse};
use weft_runtime::status::{Violations, unavailable, violation};

use super::{Order, Safety, Screening, span, wire};
use crate::{
    verdict::{Action, Verdict},
    window::Window,
};

/// The answers to a stream of texts. Nothing is read ahead: a message is taken when its answer is wanted.
pub(super) fn answers(
    shared: Safety,
    texts: Streaming<ScreenStreamRequest>,
) -> Result<impl Stream<Item = Result<ScreenStreamResponse, Status>>, Status> {
    let open = Open::count(&shared)?;
    let state = Some(Call { shared, texts, text: None, _open: open });
    Ok(stream::try_unfold(state, |call| async {
        let Some(call) = call else { return Ok(None) };
        let (verdict, call) = call.next().await?;
        Ok::<_, Status>(Some((wire::released(verdict), call)))
    }))
}

/// A stream in progress.
struct Call {
    shared: Safety,
    texts: Streaming<ScreenStreamRequest>,
    /// `None` until the first message says what to do with it.
    text: Option<Text>,
    _open: Open,
}

impl Call {
    /// The next answer, and the call unless that was the last.
    async fn next(mut self) -> Result<(Verdict, Option<Self>), Status> {
        let Some(message) = self.texts.message().await? else {
            let text = self.text.as_mut().ok_or_else(no_message)?;
            return Ok((text.finish(&self.shared), None));
        };
        let text = match &mut self.text {
            Some(text) => text,
            first => {
                let order = self.shared.order(&message.policy, message.direction, &message.text)?;
                first.insert(Text::new(order))
            }
        };
        let verdict = text.push(&message.text, &self.shared).await?;
        let is_open = !verdict.is_blocked;
        Ok((verdict, is_open.then_some(self)))
    }
}

fn no_message() -> Status {
    violation("direction", "is missing; the stream must have a first message that names it")
}

/// The text of a stream.
struct Text {
    order: Order,
    window: Window,
    span: Span,
    findings: usize,
    action: Action,
}

impl Text {
    fn new(order: Order) -> Self {
        let span = span(Screening::Stream, &order);
        Self { window: order.window(), order, span, findings: 0, action: Action::Allow }
    }

    async fn push(&mut self, text: &str, shared: &Safety) -> Result<Verdict, Status> {
        let mut violations = Violations::new();
        shared.check_text(self.window.taken(), text, &mut violations);
        violations.into_result()?;
        let span = self.span.clone();
        let verdict = shared.push(&mut self.window, text, self.order.direction).instrument(span).await;
        shared.metrics.held_bytes.observe(self.window.holding() as f64);
        self.note(&verdict);
        Ok(verdict)
    }

    fn finish(&mut self, shared: &Safety) -> Verdict {
        let verdict = self.span.in_scope(|| self.window.finish());
        shared.metrics.count(&verdict.findings, self.order.direction);
        self.note(&verdict);
        verdict
    }

    fn note(&mut self, verdict: &Verdict) {
        self.findings += verdict.findings.len();
        self.action = self.action.max(verdict.action());
    }
}

/// However the stream ends, its span says how far it came.
impl Drop for Text {
    fn drop(&mut self) {
        self.span.record("weft.text_bytes", self.window.taken());
        self.span.record("weft.findings", self.findings);
        self.span.record("weft.action", self.action.word());
    }
}

/// Counts a stream for as long as it is open, and holds its place.
struct Open {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn count(shared: &Safety) -> Result<Self, Status> {
        let most = shared.limits.max_streams;
        let full =
            |_| unavailable("TOO_MANY_STREAMS", format!("{most} streams are open, which is the limit"), None);
        let permit = shared.streams.clone().try_acquire_owned().map_err(full)?;
        let gauge = shared.metrics.open_streams.clone();
        gauge.inc();
        Ok(Self { gauge, _permit: permit })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
