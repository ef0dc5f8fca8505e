//! Who is still here, and how to end it when drain has waited long enough.

use std::{collections::BTreeMap, sync::Arc};

use http::{Request, Response};
use tokio::sync::watch;
use tonic::{Code, Status, body::Body};

use super::{Around, Next, method};
use crate::{
    body::{self, OnEnd},
    drain::{Drain, Phase},
    status::{self, reason},
};

/// The calls that have not ended, by method. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    calls: Arc<watch::Sender<BTreeMap<&'static str, usize>>>,
}

impl InFlight {
    /// Counts a call until the guard is dropped.
    fn enter(&self, method: &'static str) -> Here {
        self.calls.send_modify(|calls| *calls.entry(method).or_default() += 1);
        Here { calls: self.clone(), method }
    }

    /// Resolves when there is none.
    pub(crate) async fn empty(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.calls.subscribe().wait_for(BTreeMap::is_empty).await;
    }

    /// How many there are, by method.
    pub(crate) fn by_method(&self) -> BTreeMap<&'static str, usize> {
        self.calls.borrow().clone()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.calls.borrow().values().sum()
    }
}

/// One call that has not ended.
struct Here {
    calls: InFlight,
    method: &'static str,
}

impl OnEnd for Here {
    fn on_end(self, _: Option<Code>) {}
}

impl Drop for Here {
    fn drop(&mut self) {
        self.calls.calls.send_modify(|calls| {
            if let Some(count) = calls.get_mut(self.method) {
                *count -= 1;
                if *count == 0 {
                    calls.remove(self.method);
                }
            }
        });
    }
}

/// Counts calls and cancels what remains in [`Phase::Stopping`].
#[derive(Clone, Debug)]
pub(crate) struct CountAndCancel {
    pub(crate) in_flight: InFlight,
    pub(crate) drain: Drain,
}

impl Around for CountAndCancel {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        // Watches of health end by themselves when the process drains, and nobody waits for them.
        if method::is_housekeeping(request.uri().path()) {
            return next.run(request).await;
        }
        let here = self.in_flight.enter(method::of(&request));
        let drain = self.drain.clone();
        let stopping = async move {
            drain.reached(Phase::Stopping).await;
            stopped()
        };
        let mut stopping = Box::pin(stopping);
        let response = tokio::select! {
            biased;
            status = &mut stopping => return status.into_http(),
            response = next.run(request) => body::until(response, stopping),
        };
        body::observe(response, here)
    }
}

fn stopped() -> Status {
    status::unavailable(reason::STOPPING, "the process is stopping; another replica can take the call", None)
}
