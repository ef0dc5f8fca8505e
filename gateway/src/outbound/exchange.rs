//! A call in both directions, as the pipeline uses it: items go out, answers come back, each in its order. Where its
//! replica is lost in use, it goes on at another.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use futures::{
    FutureExt as _, StreamExt as _, TryFutureExt as _, channel::mpsc, future::BoxFuture, stream::BoxStream,
};
use tonic::{Response, Status, Streaming};
use tracing::{Instrument as _, Span};
use weft_runtime::{Deadline, client::Tried, status::is_retryable};

use super::{
    memory::{Answer, Item, Memory},
    resume::Resume,
};
use crate::error::{Failure, Peer};

/// A call in both directions. It is opened by [`prepare`](Self::prepare), or else by the first
/// [`poll_answer`](Self::poll_answer), beside whatever is sent meanwhile; dropping this drops the call.
///
/// One that is lost before anything was sent is nobody's loss: another is opened when there is something to send. One
/// that is lost later goes on at another replica, which is first asked again all that was answered, and has to say it
/// again.
pub(crate) struct Exchange<Q, A> {
    peer: Peer,
    open: Opener<Q, A>,
    /// `None` where it cannot go on elsewhere.
    elsewhere: Option<Elsewhere>,
    line: Line<Q, A>,
    // Boxed, because this moves from stage to stage.
    memory: Box<Memory<Q, A>>,
    /// Who was asked; the last one answers.
    tried: Tried,
    /// How often it has gone on elsewhere.
    resumed: u32,
    /// Whether a call was opened before there was anything to send; if it is lost, the next one waits for that.
    prepared: bool,
    /// Whether something was sent, be it only the end.
    used: bool,
    span: Span,
}

/// Opens a call, at a replica that was not tried if there is one.
type Opener<Q, A> = Arc<dyn Fn(Tried) -> Call<Q, A> + Send + Sync>;

/// What decides whether a call may go on at another replica.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    pub(super) resume: Arc<Resume>,
    pub(super) deadline: Option<Deadline>,
}

/// Who is spoken to.
enum Line<Q, A> {
    Unopened,
    Open(Call<Q, A>),
    /// Another replica is asked to go on.
    Reopening(BoxFuture<'static, Result<Reopened<Q, A>, Failure>>),
    /// Nobody any more.
    Over,
}

/// One call, as it was opened.
struct Call<Q, A> {
    requests: Option<mpsc::Sender<Q>>,
    answers: BoxStream<'static, Result<A, Failure>>,
}

/// A call that goes on: what it has yet to say again, and what it said beyond that.
struct Reopened<Q, A> {
    call: Call<Q, A>,
    owed: A,
    ahead: A,
}

impl<Q: Item, A: Answer> Exchange<Q, A> {
    /// Makes a call to `peer` for up to `window` items that are not answered yet. `open` sends a stream of items and
    /// returns the answers of the service, which `read` turns into ours. The call belongs to the current span.
    pub(super) fn new<Open, Wire>(
        (peer, window): (Peer, usize),
        elsewhere: Elsewhere,
        open: impl Fn(mpsc::Receiver<Q>, Tried) -> Open + Send + Sync + 'static,
        read: impl Fn(Result<Wire, Status>) -> Result<A, Failure> + Clone + Send + Sync + 'static,
    ) -> Self
    where
        Open: Future<Output = Result<Response<Streaming<Wire>>, Status>> + Send + 'static,
        Wire: Send + 'static,
    {
        let span = Span::current();
        let of_call = span.clone();
        let open = move |tried| {
            let (requests, outgoing) = mpsc::channel(window);
            let answers = open(outgoing, tried).instrument(of_call.clone());
            let answers = answers.map_ok(Response::into_inner).try_flatten_stream();
            Call { requests: Some(requests), answers: answers.map(read.clone()).boxed() }
        };
        Self { elsewhere: Some(elsewhere), span, ..Self::of(peer, Arc::new(open), Line::Unopened) }
    }

    /// A call that cannot go on elsewhere.
    fn of(peer: Peer, open: Opener<Q, A>, line: Line<Q, A>) -> Self {
        Self {
            peer,
            open,
            elsewhere: None,
            line,
            memory: Box::default(),
            tried: Tried::default(),
            resumed: 0,
            prepared: false,
            used: false,
            span: Span::none(),
        }
    }

    /// A call that is answered in this process: each item, and at the end `None`, by `answer`.
    #[cfg(test)]
    pub(crate) fn local(mut answer: impl FnMut(Option<Q>) -> A + Send + 'static) -> Self {
        let (requests, outgoing) = mpsc::channel(usize::from(u8::MAX));
        let items = outgoing.map(Some).chain(futures::stream::iter([None]));
        let call =
            Call { requests: Some(requests), answers: items.map(move |item| Ok(answer(item))).boxed() };
        let open = |_| unreachable!("a call in this process is open from the beginning");
        Self { prepared: true, ..Self::of(Peer::Tokenizer, Arc::new(open), Line::Open(call)) }
    }

    /// Opens the call before there is anything to send, and brings it on.
    pub(crate) fn prepare(&mut self, cx: &mut Context<'_>) {
        if !self.prepared {
            self.prepared = true;
            self.line = Line::Open((self.open)(self.tried.clone()));
        }
        self.drop_if_over(cx);
    }

    /// Sends an item. Never waits: whoever sends keeps to the window. On a call that is over, this does nothing; the
    /// answers say why it is over.
    pub(crate) fn send(&mut self, item: Q) {
        self.begin();
        if let Line::Open(call) = &mut self.line {
            call.send(item.clone());
        }
        self.memory.sent(item);
    }

    /// Says that nothing more is sent.
    pub(crate) fn finish(&mut self) {
        self.begin();
        self.memory.close();
        if let Line::Open(call) = &mut self.line {
            call.requests = None;
        }
    }

    /// The next answer. There is none before something was sent.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<A, Failure>>> {
        if !self.used {
            self.prepare(cx);
            return Poll::Pending;
        }
        loop {
            let heard = match &mut self.line {
                Line::Open(call) => ready!(call.answers.poll_next_unpin(cx)),
                Line::Reopening(reopening) => match ready!(reopening.poll_unpin(cx)) {
                    Ok(reopened) => {
                        self.catch_up(reopened);
                        continue;
                    }
                    // It was asked of as many as patience allows.
                    Err(failure) => return Poll::Ready(self.fail(failure)),
                },
                Line::Unopened | Line::Over => return self.memory.rest().map(|rest| rest.map(Ok)),
            };
            match heard {
                Some(Ok(answer)) => return Poll::Ready(Some(self.hear(answer))),
                Some(Err(failure)) if !self.reopens(&failure) => return Poll::Ready(self.fail(failure)),
                Some(Err(_)) => {}
                None => self.line = Line::Over,
            }
        }
    }

    /// Before something is sent for the first time, it sees to it that there is somebody to send it to.
    fn begin(&mut self) {
        if self.used {
            return;
        }
        // Whoever sends asks for the answer next, and is then woken by it.
        self.drop_if_over(&mut Context::from_waker(Waker::noop()));
        self.used = true;
        if let Line::Unopened = self.line {
            self.line = Line::Open((self.open)(self.tried.clone()));
        }
        if let Some(Elsewhere { resume, .. }) = &self.elsewhere {
            resume.begun(1);
        }
    }

    /// Whatever a call says that was asked nothing, it is of no use any more.
    fn drop_if_over(&mut self, cx: &mut Context<'_>) {
        if let Line::Open(call) = &mut self.line
            && call.answers.poll_next_unpin(cx).is_ready()
        {
            self.line = Line::Unopened;
        }
    }

    fn hear(&mut self, answer: A) -> Result<A, Failure> {
        self.memory.heard(answer).ok_or_else(|| {
            self.line = Line::Over;
            Failure { peer: self.peer, status: Status::unavailable(DIFFERS) }
        })
    }

    /// What there is to say of a failure, if that is all there is to say. Where all was answered, only the goodbye was lost.
    fn fail(&mut self, failure: Failure) -> Option<Result<A, Failure>> {
        self.line = Line::Over;
        (!self.memory.is_complete() || !is_retryable(&failure.status)).then_some(Err(failure))
    }

    /// Whether the call goes on at another replica, which is asked.
    fn reopens(&mut self, loss: &Failure) -> bool {
        let Some(Elsewhere { resume, deadline }) = &self.elsewhere else { return false };
        let lost = self.tried.last();
        if self.memory.is_complete() || !resume.allows(&loss.status, self.resumed, lost) {
            return false;
        }
        self.resumed += 1;
        self.tried = self.tried.of_last();
        let (peer, resumed, why) = (self.peer.name(), self.resumed, loss.status.message());
        tracing::warn!(
            parent: &self.span,
            peer,
            resumed,
            why,
            "the replica that an answer passes through is lost; it goes on through another"
        );
        let (resume, deadline, status) = (Arc::clone(resume), *deadline, loss.status.clone());
        let (open, tried, (answered, told)) =
            (Arc::clone(&self.open), self.tried.clone(), self.memory.so_far());
        let attempt = move || again(open(tried.clone()), answered.clone(), told.clone());
        let peer = self.peer;
        let reopening = async move {
            resume.run(status, deadline, attempt).await.map_err(|status| Failure { peer, status })
        };
        self.line = Line::Reopening(reopening.instrument(self.span.clone()).boxed());
        true
    }

    /// Sends to another replica what the lost one has not answered.
    fn catch_up(&mut self, reopened: Reopened<Q, A>) {
        let Reopened { mut call, owed, ahead } = reopened;
        self.memory.goes_on(owed, ahead);
        self.memory.waiting().for_each(|item| call.send(item));
        if self.memory.is_closed() {
            call.requests = None;
        }
        self.line = Line::Open(call);
    }
}

const DIFFERS: &str = "a replica does not say again what the one before it had said";

/// Asks a replica again what another had answered.
async fn again<Q: Item, A: Answer>(
    mut call: Call<Q, A>,
    answered: Q,
    mut owed: A,
) -> Result<Reopened<Q, A>, Status> {
    call.send(answered);
    match call.answers.next().await {
        Some(Ok(answer)) => {
            let ahead = answer.beyond(&mut owed).ok_or_else(|| Status::failed_precondition(DIFFERS))?;
            Ok(Reopened { call, owed, ahead })
        }
        Some(Err(failure)) => Err(failure.status),
        None => Err(Status::internal("a replica ended its answers before the first")),
    }
}

impl<Q, A> Call<Q, A> {
    fn send(&mut self, item: Q) {
        if let Some(requests) = &mut self.requests {
            let sent = requests.try_send(item);
            debug_assert!(
                sent.as_ref().err().is_none_or(mpsc::TrySendError::is_disconnected),
                "window overrun"
            );
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

    /// A call that repeats what it is sent, unless it is one of the first `lost`: those end at once. And how many there were.
    fn echo(lost: usize) -> (Exchange<String, String>, Arc<AtomicUsize>) {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let open = move |_| {
            let (requests, outgoing) = mpsc::channel(8);
            let answers = if count.fetch_add(1, Ordering::SeqCst) < lost {
                stream::empty().boxed()
            } else {
                outgoing.map(Ok).boxed()
            };
            Call { requests: Some(requests), answers }
        };
        (Exchange::of(Peer::Tokenizer, Arc::new(open), Line::Unopened), opened)
    }

    async fn ask(exchange: &mut Exchange<String, String>, item: &str) -> Option<String> {
        exchange.send(item.to_owned());
        poll_fn(|cx| exchange.poll_answer(cx)).await.map(|answer| answer.unwrap())
    }

    fn prepare(exchange: &mut Exchange<String, String>) {
        exchange.prepare(&mut Context::from_waker(Waker::noop()));
    }

    #[tokio::test]
    async fn a_call_that_was_prepared_is_the_one_that_is_used() {
        let (mut exchange, opened) = echo(0);
        prepare(&mut exchange);
        prepare(&mut exchange);
        assert_eq!(ask(&mut exchange, "once").await.unwrap(), "once");
        assert_eq!(ask(&mut exchange, " upon").await.unwrap(), " upon");
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_call_that_is_lost_before_it_was_of_use_is_replaced_once_it_is_needed() {
        let (mut exchange, opened) = echo(1);
        prepare(&mut exchange);
        let unasked = poll_fn(|cx| Poll::Ready(exchange.poll_answer(cx))).await;
        assert!(unasked.is_pending(), "nobody has asked it anything");
        assert_eq!(opened.load(Ordering::SeqCst), 1, "nothing is to be sent yet");
        assert_eq!(ask(&mut exchange, "once").await.unwrap(), "once");
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_call_that_ends_in_use_is_over() {
        let (mut exchange, opened) = echo(1);
        assert_eq!((ask(&mut exchange, "once").await, ask(&mut exchange, " upon").await), (None, None));
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}
