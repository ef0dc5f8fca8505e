//! Whole-stream deadlines, both ways.
//!
//! tonic's timeouts cover the time to response headers and answer `CANCELLED`. Here every message races the deadline,
//! and the answer is `DEADLINE_EXCEEDED`.

use std::time::Duration;

use http::{Request, Response};
use tonic::{Code, Status, body::Body};

use super::{Around, Next, method};
use crate::{
    body,
    deadline::{self, Deadline},
    status::{self, reason},
    task,
};

/// How long after its deadline a call is dropped whose reader takes nothing, not even the status that says why.
const STALLED: Duration = Duration::from_secs(1);

/// How long calls may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For a call that says nothing.
    pub(crate) default: Duration,
    /// The most that a caller can ask for.
    pub(crate) most: Duration,
}

/// Gives each incoming call its deadline and holds it to it.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) limits: Limits,
}

impl Around for Incoming {
    async fn call(&self, mut request: Request<Body>, next: Next) -> Response<Body> {
        let asked = match deadline::read(request.headers()) {
            Ok(asked) => asked,
            Err(error) => return status::violation(deadline::HEADER, &error.to_string()).into_http(),
        };
        // A watch of health stays open for days, by design.
        if asked.is_none() && method::is_housekeeping(request.uri().path()) {
            return next.run(request).await;
        }
        let deadline = Deadline::after(asked.unwrap_or(self.limits.default).min(self.limits.most));
        request.extensions_mut().insert(deadline);
        super::trace::record_deadline(deadline);
        task::drop_call_at(deadline.instant() + STALLED);
        race(deadline, request, next).await
    }
}

/// Sends what is left of an outgoing call's deadline, and gives up when it is spent.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing;

impl Around for Outgoing {
    async fn call(&self, mut request: Request<Body>, next: Next) -> Response<Body> {
        let Some(deadline) = request.extensions().get::<Deadline>().copied() else {
            return next.run(request).await;
        };
        let Some(left) = deadline.remaining() else { return exceeded().into_http() };
        let sent = left - margin(left);
        deadline::write(sent, request.headers_mut());
        let theirs = Deadline::after(sent);
        let response = race(deadline, request, next).await;
        body::amend(response, move |status| late(status, theirs))
    }
}

/// What an inner hop is given less than we have, so that it fails first and its reason arrives.
fn margin(left: Duration) -> Duration {
    const MOST: Duration = Duration::from_millis(10);
    (left / 10).min(MOST)
}

/// `CANCELLED` from a peer whose time is up is its way to say so (tonic's servers do).
fn late(status: &Status, theirs: Deadline) -> Option<Status> {
    (status.code() == Code::Cancelled && theirs.remaining().is_none()).then(exceeded)
}

async fn race(deadline: Deadline, request: Request<Body>, next: Next) -> Response<Body> {
    let mut expired = Box::pin(async move {
        tokio::time::sleep_until(deadline.instant()).await;
        exceeded()
    });
    tokio::select! {
        biased;
        response = next.run(request) => body::until(response, expired),
        status = &mut expired => status.into_http(),
    }
}

fn exceeded() -> Status {
    status::with_reason(
        Code::DeadlineExceeded,
        reason::DEADLINE,
        "the deadline passed before the answer was complete",
    )
}
