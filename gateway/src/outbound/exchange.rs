//! A call in both directions, as the pipeline uses it: items go out, answers come back, each in its order.

use std::task::{Context, Poll};

use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _, channel::mpsc, stream::BoxStream};
use tonic::{Response, Status, Streaming};
use tracing::Instrument as _;

use crate::error::Failure;

/// A call in both directions. The call is opened by the first [`poll_answer`](Self::poll_answer), beside whatever is
/// sent meanwhile; dropping this drops the call.
pub(crate) struct Exchange<Q, A> {
    requests: Option<mpsc::Sender<Q>>,
    answers: BoxStream<'static, Result<A, Failure>>,
}

impl<Q: Send + 'static, A: 'static> Exchange<Q, A> {
    /// Makes a call for up to `window` items that are not answered yet. `open` sends a stream of items and returns
    /// the answers of the service, which `read` turns into ours.
    pub(crate) fn new<Open, Wire>(
        window: usize,
        open: impl FnOnce(mpsc::Receiver<Q>) -> Open,
        read: impl Fn(Result<Wire, Status>) -> Result<A, Failure> + Send + 'static,
    ) -> Self
    where
        Open: Future<Output = Result<Response<Streaming<Wire>>, Status>> + Send + 'static,
        Wire: Send + 'static,
    {
        let (requests, outgoing) = mpsc::channel(window);
        let answers = open(outgoing).in_current_span().map_ok(Response::into_inner).try_flatten_stream();
        Self { requests: Some(requests), answers: answers.into_stream().map(read).boxed() }
    }

    /// A call that is answered in this process: each item, and at the end `None`, by `answer`.
    #[cfg(test)]
    pub(crate) fn local(mut answer: impl FnMut(Option<Q>) -> A + Send + 'static) -> Self {
        let (requests, outgoing) = mpsc::channel(usize::from(u8::MAX));
        let items = outgoing.map(Some).chain(futures::stream::iter([None]));
        Self { requests: Some(requests), answers: items.map(move |item| Ok(answer(item))).boxed() }
    }

    /// Sends an item. Never waits: whoever sends keeps to the window. On a call that is over, this does nothing; the
    /// answers say why it is over.
    pub(crate) fn send(&mut self, item: Q) {
        if let Some(requests) = &mut self.requests {
            let sent = requests.try_send(item);
            debug_assert!(
                sent.as_ref().err().is_none_or(mpsc::TrySendError::is_disconnected),
                "window overrun"
            );
        }
    }

    /// Says that nothing more is sent.
    pub(crate) fn finish(&mut self) {
        self.requests = None;
    }

    /// The next answer.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<A, Failure>>> {
        self.answers.poll_next_unpin(cx)
    }
}

impl<Q, A> std::fmt::Debug for Exchange<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("open", &self.requests.is_some()).finish_non_exhaustive()
    }
}
