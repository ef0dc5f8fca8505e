//! A generation as a stream of tokens, whichever replica says them.
//!
//! Where its replica is lost, the generation goes on at another, behind the tokens that have come. Whoever reads notices
//! a pause and nothing else: seed, prompt and what the prompt's cache held are those of the beginning.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tonic::{Status, Streaming};
use tracing::{Instrument as _, Span};
use weft_proto::inference::v1::{
    GenerateRequest, GenerateResponse, Resumption, Started, generate_response::Event,
};
use weft_runtime::{Deadline, client::Tried};

use super::{
    failure,
    inference::{Generated, Inference, Opened, broken, our_field, read, read_token},
};
use crate::{
    answer::Token,
    error::{Error, Peer},
};

/// A generation that runs: its prompt is in the cache. A stream of tokens that ends with [`Generated::End`]; dropping
/// it cancels the generation.
pub(crate) struct Generation {
    pub(crate) prompt_tokens: u32,
    /// The seed in use, also when it was drawn.
    pub(crate) seed: u64,
    /// How long it waited for a place in inference's batch.
    pub(crate) queued: Duration,
    /// How long its prompt took from then to its first token.
    pub(crate) prefill: Duration,
    /// The prompt's tokens, if their log-probabilities were asked for.
    pub(crate) prompt: Vec<Token>,
    source: Source,
    /// What is asked of the replica that goes on, in its resumption all that was said.
    request: GenerateRequest,
    inference: Inference,
    /// Who was asked; the last one speaks.
    tried: Tried,
    deadline: Option<Deadline>,
    /// The field of our own API that its constraint came from.
    constraint: Option<&'static str>,
    started: Started,
    /// How often it has gone on elsewhere.
    resumed: u32,
    finished: bool,
    /// The span that the generation belongs to.
    span: Span,
}

enum Source {
    /// A replica speaks.
    Open(Box<Streaming<GenerateResponse>>),
    /// Another is asked to go on.
    Reopening(BoxFuture<'static, Result<Opened, Status>>),
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Generation").field("resumed", &self.resumed).finish_non_exhaustive()
    }
}

impl Generation {
    /// What `opened` says, in answer to `request`.
    ///
    /// # Errors
    /// It does not begin as a generation must.
    pub(super) fn new(
        inference: Inference,
        opened: Opened,
        mut request: GenerateRequest,
        (tried, deadline, constraint): (Tried, Option<Deadline>, Option<&'static str>),
    ) -> Result<Self, Error> {
        let (started, source) = begin(opened)?;
        request.sampling.get_or_insert_default().seed = Some(started.seed);
        let adapter_fingerprint = started.adapter_fingerprint.clone();
        request.resumption = Some(Resumption { adapter_fingerprint, ..Resumption::default() });
        Ok(Self {
            prompt_tokens: started.prompt_tokens,
            seed: started.seed,
            queued: Duration::from_micros(started.queue_micros),
            prefill: Duration::from_micros(started.prefill_micros),
            prompt: Vec::new(),
            source,
            request,
            inference,
            tried,
            deadline,
            constraint,
            started,
            resumed: 0,
            finished: false,
            span: Span::current(),
        })
    }

    /// Reads the log-probabilities of the prompt, which come before all tokens. Without them nothing has been said, so the loss
    /// of a replica meanwhile is the caller's.
    pub(super) async fn read_prompt(&mut self) -> Result<(), Error> {
        let Source::Open(messages) = &mut self.source else { return Ok(()) };
        while self.prompt.len() < self.prompt_tokens as usize {
            match messages.message().await {
                Err(status) => return Err(self.failed(status)),
                Ok(Some(GenerateResponse { event: Some(Event::PromptLogprobs(more)) })) => {
                    self.prompt.extend(more.tokens.into_iter().map(read_token));
                }
                Ok(_) => return Err(broken("a prompt's log-probabilities are not complete")),
            }
        }
        // Another replica that goes on need not say them again.
        self.request.prompt_top_logprobs = None;
        Ok(())
    }

    /// What a message says; what it brings is kept in case another replica has to go on.
    fn take(&mut self, message: GenerateResponse) -> Result<Generated, Error> {
        match &message.event {
            Some(Event::Tokens(tokens)) => {
                let said = &mut self.request.resumption.get_or_insert_default().token_ids;
                said.extend(tokens.tokens.iter().map(|token| token.id));
            }
            Some(Event::Finished(_)) => self.finished = true,
            _ => {}
        }
        let mut generated = read(message)?;
        if let Generated::End { usage, .. } = &mut generated
            && self.resumed > 0
        {
            // The prompt was found in the cache, or not, by the replica that began.
            usage.cached_prompt = self.started.cached_prompt_tokens;
        }
        Ok(generated)
    }

    /// Asks another replica to go on.
    ///
    /// # Errors
    /// None may be asked: the status is the caller's.
    fn reopen(&mut self, status: Status) -> Result<(), Status> {
        let Self { inference, tried, span, .. } = self;
        // Several answers on one stream: what each has said is not one list of tokens.
        if self.request.n.unwrap_or(1) > 1 {
            return Err(status);
        }
        if !inference.resume.allows(&status, self.resumed, tried.last(), &inference.pool) {
            return Err(status);
        }
        tried.forget_earlier();
        self.resumed += 1;
        let said = self.request.resumption.as_ref().map_or(0, |resumption| resumption.token_ids.len());
        tracing::warn!(
            parent: &*span,
            said,
            resumed = self.resumed,
            why = status.message(),
            "the replica of an answer is lost; it goes on at another"
        );
        let (inference, tried) = (inference.clone(), tried.clone());
        let (request, deadline) = (self.request.clone(), self.deadline);
        let reopening = async move {
            let open = || inference.open(request.clone(), &tried, deadline);
            inference.resume.run(status, deadline, open).await
        };
        self.source = Source::Reopening(reopening.instrument(self.span.clone()).boxed());
        Ok(())
    }

    fn failed(&self, status: Status) -> Error {
        failure(Peer::Inference, status, |theirs| our_field(theirs, "", self.constraint)).into()
    }
}

/// A generation begins with Started.
fn begin(opened: Opened) -> Result<(Started, Source), Error> {
    let Opened { first, messages } = opened;
    match first.and_then(|message| message.event) {
        Some(Event::Started(started)) => Ok((started, Source::Open(Box::new(messages)))),
        Some(Event::Tokens(_) | Event::Finished(_) | Event::PromptLogprobs(_)) | None => {
            Err(broken("a generation did not begin with Started"))
        }
    }
}

impl Stream for Generation {
    type Item = Result<Generated, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.source {
                Source::Open(messages) => match ready!(messages.poll_next_unpin(cx)) {
                    Some(Ok(message)) => return Poll::Ready(Some(this.take(message))),
                    // All was said, and only the goodbye was lost.
                    Some(Err(_)) if this.finished => return Poll::Ready(None),
                    Some(Err(status)) => {
                        if let Err(status) = this.reopen(status) {
                            return Poll::Ready(Some(Err(this.failed(status))));
                        }
                    }
                    None => return Poll::Ready(None),
                },
                Source::Reopening(opening) => match ready!(opening.poll_unpin(cx)) {
                    Ok(opened) => this.source = begin(opened)?.1,
                    Err(status) => return Poll::Ready(Some(Err(this.failed(status)))),
                },
            }
        }
    }
}
