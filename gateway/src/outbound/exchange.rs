//! A call in both directions, as the pipeline uses it: items go out, answers come back, each in its order.

use std::task::{Context, Poll, Waker};

use futures::{StreamExt as _, TryFutureExt as _, channel::mpsc, stream::BoxStream};
use tonic::{Response, Status, Streaming};
use tracing::{Instrument as _, Span};

use crate::error::Failure;

/// A call in both directions. It is opened by [`prepare`](Self::prepare), or else by the first
/// [`poll_answer`](Self::poll_answer), beside whatever is sent meanwhile; dropping this drops the call. One that is lost
/// before anything was sent is nobody's loss: another is opened when there is something to send.
pub(crate) struct Exchange<Q, A> {
    open: Box<dyn Fn() -> Call<Q, A> + Send>,
    call: Option<Call<Q, A>>,
    /// Whether a call was opened before there was anything to send; if it is lost, the next one waits for that.
    prepared: bool,
    /// Whether something was sent, be it only the end, so that there cannot be another call in its place.
    used: bool,
}

/// One call, as it was opened.
struct Call<Q, A> {
    requests: Option<mpsc::Sender<Q>>,
    answers: BoxStream<'static, Result<A, Failure>>,
}

impl<Q: Send + 'static, A: 'static> Exchange<Q, A> {
    /// Makes a call for up to `window` items that are not answered yet. `open` sends a stream of items and returns
    /// the answers of the service, which `read` turns into ours. The call belongs to the current span.
    pub(crate) fn new<Open, Wire>(
        window: usize,
        open: impl Fn(mpsc::Receiver<Q>) -> Open + Send + 'static,
        read: impl Fn(Result<Wire, Status>) -> Result<A, Failure> + Clone + Send + 'static,
    ) -> Self
    where
        Open: Future<Output = Result<Response<Streaming<Wire>>, Status>> + Send + 'static,
        Wire: Send + 'static,
    {
        let span = Span::current();
        let open = move || {
            let (requests, outgoing) = mpsc::channel(window);
            let answers =
                open(outgoing).instrument(span.clone()).map_ok(Response::into_inner).try_flatten_stream();
            Call { requests: Some(requests), answers: answers.map(read.clone()).boxed() }
        };
        Self { open: Box::new(open), call: None, prepared: false, used: false }
    }

    /// A call that is answered in this process: each item, and at the end `None`, by `answer`.
    #[cfg(test)]
    pub(crate) fn local(mut answer: impl FnMut(Option<Q>) -> A + Send + 'static) -> Self {
        let (requests, outgoing) = mpsc::channel(usize::from(u8::MAX));
        let items = outgoing.map(Some).chain(futures::stream::iter([None]));
        let call =
            Call { requests: Some(requests), answers: items.map(move |item| Ok(answer(item))).boxed() };
        let open = || unreachable!("a call in this process is open from the beginning");
        Self { open: Box::new(open), call: Some(call), prepared: true, used: false }
    }

    /// Opens the call before there is anything to send, and brings it on.
    pub(crate) fn prepare(&mut self, cx: &mut Context<'_>) {
        if !self.prepared {
            self.prepared = true;
            self.call = Some((self.open)());
        }
        self.drop_if_over(cx);
    }

    /// Sends an item. Never waits: whoever sends keeps to the window. On a call that is over, this does nothing; the
    /// answers say why it is over.
    pub(crate) fn send(&mut self, item: Q) {
        if !self.used {
            // Whoever sends asks for the answer next, and is then woken by it.
            self.drop_if_over(&mut Context::from_waker(Waker::noop()));
        }
        self.used = true;
        if let Some(requests) = &mut self.call().requests {
            let sent = requests.try_send(item);
            debug_assert!(
                sent.as_ref().err().is_none_or(mpsc::TrySendError::is_disconnected),
                "window overrun"
            );
        }
    }

    /// Says that nothing more is sent.
    pub(crate) fn finish(&mut self) {
        self.used = true;
        self.call().requests = None;
    }

    /// The next answer. There is none before something was sent.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<A, Failure>>> {
        if !self.used {
            self.prepare(cx);
            return Poll::Pending;
        }
        self.call().answers.poll_next_unpin(cx)
    }

    fn call(&mut self) -> &mut Call<Q, A> {
        self.call.get_or_insert_with(&self.open)
    }

    /// Whatever a call says that was asked nothing, it is of no use any more.
    fn drop_if_over(&mut self, cx: &mut Context<'_>) {
        if self.call.as_mut().is_some_and(|call| call.answers.poll_next_unpin(cx).is_ready()) {
            self.call = None;
        }
    }
}

impl<Q, A> std::fmt::Debug for Exchange<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("used", &self.used).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::{future::poll_fn, stream};

    use super::*;

    /// A call that doubles what it is sent, unless it is one of the first `lost`: those end at once. And how many there were.
    fn doubling(lost: usize) -> (Exchange<u32, u32>, Arc<AtomicUsize>) {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let open = move || {
            let (requests, outgoing) = mpsc::channel(8);
            let answers = if count.fetch_add(1, Ordering::SeqCst) < lost {
                stream::empty().boxed()
            } else {
                outgoing.map(|item: u32| Ok(2 * item)).boxed()
            };
            Call { requests: Some(requests), answers }
        };
        (Exchange { open: Box::new(open), call: None, prepared: false, used: false }, opened)
    }

    async fn ask(exchange: &mut Exchange<u32, u32>, item: u32) -> Option<u32> {
        exchange.send(item);
        poll_fn(|cx| exchange.poll_answer(cx)).await.map(|answer| answer.unwrap())
    }

    fn prepare(exchange: &mut Exchange<u32, u32>) {
        exchange.prepare(&mut Context::from_waker(Waker::noop()));
    }

    #[tokio::test]
    async fn a_call_that_was_prepared_is_the_one_that_is_used() {
        let (mut exchange, opened) = doubling(0);
        prepare(&mut exchange);
        prepare(&mut exchange);
        assert_eq!((ask(&mut exchange, 3).await, ask(&mut exchange, 4).await), (Some(6), Some(8)));
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_call_that_is_lost_before_it_was_of_use_is_replaced_once_it_is_needed() {
        let (mut exchange, opened) = doubling(1);
        prepare(&mut exchange);
        let unasked = poll_fn(|cx| Poll::Ready(exchange.poll_answer(cx))).await;
        assert!(unasked.is_pending(), "nobody has asked it anything");
        assert_eq!(opened.load(Ordering::SeqCst), 1, "nothing is to be sent yet");
        assert_eq!(ask(&mut exchange, 3).await, Some(6));
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_call_that_is_lost_in_use_is_not_replaced() {
        let (mut exchange, opened) = doubling(1);
        assert_eq!((ask(&mut exchange, 3).await, ask(&mut exchange, 4).await), (None, None));
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}
