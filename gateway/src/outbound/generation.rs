//! A generation as a stream of tokens, whichever replica says them.
//!
//! Where its replica is lost, each of its answers that has not ended goes on at another, behind the tokens that have come.
//! Whoever reads notices a pause and nothing else: seed, prompt and what the prompt's cache held are those of the
//! beginning.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use tonic::Status;
use tracing::{Instrument as _, Span};
use weft_proto::inference::v1::{
    GenerateRequest, GenerateResponse, Resumption, Started, generate_response::Event,
};
use weft_runtime::{Deadline, client::Tried};

use super::{
    failure,
    inference::{Generated, Inference, Opened, broken, our_field, read, read_token},
    readers::Readers,
    voice::{Heard, Only, Voice, begin},
};
use crate::{
    answer::Token,
    error::{Error, Peer},
};

/// A generation that runs: its prompt is in the cache. A stream of tokens that ends with one [`Generated::End`] for each
/// answer; dropping it cancels the generation.
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
    /// Who reads its answers.
    pub(crate) readers: Readers,
    /// Those that have something to say.
    voices: Vec<Voice>,
    /// The voice that is listened to first.
    turn: usize,
    /// What is known of each answer.
    answers: Vec<Answer>,
    /// What is asked of a replica that goes on, but for what was said.
    request: GenerateRequest,
    inference: Inference,
    deadline: Option<Deadline>,
    /// The field of our own API that its constraint came from.
    constraint: Option<&'static str>,
    started: Started,
    /// The span that the generation belongs to.
    span: Span,
}

#[derive(Clone, Debug, Default)]
struct Answer {
    /// Its tokens so far.
    said: Vec<u32>,
    ended: bool,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Generation").field("answers", &self.answers.len()).finish_non_exhaustive()
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
        let (started, messages) = begin(opened)?;
        let count = request.n.take().unwrap_or(1);
        request.sampling.get_or_insert_default().seed = Some(started.seed);
        Ok(Self {
            prompt_tokens: started.prompt_tokens,
            seed: started.seed,
            queued: Duration::from_micros(started.queue_micros),
            prefill: Duration::from_micros(started.prefill_micros),
            prompt: Vec::new(),
            readers: Readers::of(count),
            voices: vec![Voice::of_all(messages, tried)],
            turn: 0,
            answers: vec![Answer::default(); count as usize],
            request,
            inference,
            deadline,
            constraint,
            started,
            span: Span::current(),
        })
    }

    /// Reads the log-probabilities of the prompt, which come before all tokens. Without them nothing has been said, so the loss
    /// of a replica meanwhile is the caller's.
    pub(super) async fn read_prompt(&mut self) -> Result<(), Error> {
        let Some(messages) = self.voices.first_mut().and_then(Voice::messages) else { return Ok(()) };
        while self.prompt.len() < self.prompt_tokens as usize {
            match messages.message().await {
                Err(status) => return Err(failed(status, self.constraint)),
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

    /// The next that any voice says, and its place among them; they are listened to in turn.
    fn hear(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Heard)>> {
        let count = self.voices.len();
        if count == 0 {
            return Poll::Ready(None);
        }
        for place in (0..count).map(|step| (self.turn + step) % count) {
            if let Poll::Ready(heard) = self.voices[place].poll(cx) {
                self.turn = place + 1;
                return Poll::Ready(Some((place, heard)));
            }
        }
        Poll::Pending
    }

    /// What a message says; what it brings is kept in case another replica has to go on.
    fn take(&mut self, message: GenerateResponse) -> Result<Generated, Error> {
        let generated = read(message)?;
        let (index, said, ends) = match &generated {
            Generated::Tokens { index, tokens } => (*index, tokens.as_slice(), false),
            Generated::End { index, .. } => (*index, [].as_slice(), true),
        };
        // Whoever reads refuses an answer that was not asked for.
        if let Some(answer) = self.answers.get_mut(index as usize) {
            answer.said.extend(said.iter().map(|token| token.id));
            answer.ended |= ends;
        }
        Ok(generated)
    }

    /// Lets all answers go on elsewhere that a lost voice had not ended and somebody reads: where there are none, only the
    /// goodbye was lost.
    ///
    /// # Errors
    /// One of them may not: the status is the caller's.
    fn replace(&mut self, lost: &Voice, status: &Status) -> Result<(), Status> {
        for answer in lost.answers(self.answers.len() as u32) {
            if !self.answers[answer as usize].ended && self.readers.read(answer as usize) {
                let voice = self.go_on(answer, lost, status)?;
                self.voices.push(voice);
            }
        }
        Ok(())
    }

    /// Asks another replica to go on with an answer.
    fn go_on(&self, answer: u32, lost: &Voice, status: &Status) -> Result<Voice, Status> {
        let (inference, status) = (self.inference.clone(), status.clone());
        if !inference.resume.allows(&status, lost.resumed, lost.tried.last()) {
            return Err(status);
        }
        let (said, resumed) = (self.answers[answer as usize].said.clone(), lost.resumed + 1);
        tracing::warn!(
            parent: &self.span,
            answer,
            said = said.len(),
            resumed,
            why = status.message(),
            "the replica of an answer is lost; it goes on at another"
        );
        let adapter_fingerprint = self.started.adapter_fingerprint.clone();
        let resumption = Some(Resumption { token_ids: said, index: answer, adapter_fingerprint });
        let request = GenerateRequest { resumption, ..self.request.clone() };
        let (tried, deadline, constraint) = (lost.tried.of_last(), self.deadline, self.constraint);
        let asked = tried.clone();
        let opening = async move {
            let open = || inference.open(request.clone(), &asked, deadline);
            let opened = inference.resume.run(status, deadline, open).await;
            Ok(begin(opened.map_err(|status| failed(status, constraint))?)?.1)
        };
        let only = Only { answer, cached_prompt_tokens: self.started.cached_prompt_tokens };
        Ok(Voice::of(only, opening.instrument(self.span.clone()), tried, resumed))
    }
}

fn failed(status: Status, constraint: Option<&'static str>) -> Error {
    failure(Peer::Inference, status, |theirs| our_field(theirs, "", constraint)).into()
}

impl Stream for Generation {
    type Item = Result<Generated, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some((place, heard)) = ready!(this.hear(cx)) {
            let error = match heard {
                Heard::Message(message) => return Poll::Ready(Some(this.take(message))),
                Heard::End => {
                    this.voices.swap_remove(place);
                    continue;
                }
                Heard::Lost(status) => {
                    let lost = this.voices.swap_remove(place);
                    match this.replace(&lost, &status) {
                        Ok(()) => continue,
                        Err(status) => failed(status, this.constraint),
                    }
                }
                Heard::Failed(error) => error,
            };
            // Without one of its answers the whole is not what was asked for.
            this.voices.clear();
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(None)
    }
}
