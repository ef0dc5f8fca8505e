//! A call that says answers of a generation. The first says all of them; where its replica is lost, each that has not
//! ended goes on in a call of its own.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tonic::{Status, Streaming};
use weft_proto::inference::v1::{GenerateResponse, Started, generate_response::Event};
use weft_runtime::client::Tried;

use super::inference::{Opened, broken};
use crate::error::Error;

/// Messages of a call that has begun.
pub(super) type Messages = Box<Streaming<GenerateResponse>>;

/// Who says one answer, or all of them.
pub(super) struct Voice {
    /// Which answer it says, and what the cache held of the prompt where that began; none where it says all.
    only: Option<Only>,
    source: Source,
    /// Who was asked; the last one speaks.
    pub(super) tried: Tried,
    /// How often its answers have gone on elsewhere.
    pub(super) resumed: u32,
}

/// One answer that has gone on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Only {
    pub(super) answer: u32,
    pub(super) cached_prompt_tokens: u32,
}

enum Source {
    /// A replica speaks.
    Open(Messages),
    /// Another is asked to go on.
    Reopening(BoxFuture<'static, Result<Messages, Error>>),
}

/// What a voice has to say.
pub(super) enum Heard {
    Message(GenerateResponse),
    /// All that it had to say was said.
    End,
    /// Its replica is lost, or the call is.
    Lost(Status),
    /// No other goes on.
    Failed(Error),
}

impl Voice {
    /// The call that began, and says all answers.
    pub(super) fn of_all(messages: Messages, tried: Tried) -> Self {
        Self { only: None, source: Source::Open(messages), tried, resumed: 0 }
    }

    /// One answer, that goes on once `opening` says where.
    pub(super) fn of(
        only: Only,
        opening: impl Future<Output = Result<Messages, Error>> + Send + 'static,
        tried: Tried,
        resumed: u32,
    ) -> Self {
        Self { only: Some(only), source: Source::Reopening(opening.boxed()), tried, resumed }
    }

    /// Which of `all` answers it says.
    pub(super) fn answers(&self, all: u32) -> std::ops::Range<u32> {
        self.only.map_or(0..all, |only| only.answer..only.answer + 1)
    }

    pub(super) fn messages(&mut self) -> Option<&mut Messages> {
        match &mut self.source {
            Source::Open(messages) => Some(messages),
            Source::Reopening(_) => None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match &mut self.source {
                Source::Open(messages) => {
                    return Poll::Ready(match ready!(messages.poll_next_unpin(cx)) {
                        Some(Ok(message)) => Heard::Message(self.as_begun(message)),
                        Some(Err(status)) => Heard::Lost(status),
                        None => Heard::End,
                    });
                }
                Source::Reopening(opening) => match ready!(Pin::new(opening).poll(cx)) {
                    Ok(messages) => self.source = Source::Open(messages),
                    Err(error) => return Poll::Ready(Heard::Failed(error)),
                },
            }
        }
    }

    /// A message as the call that began would have sent it: this one has but one answer, whose prompt it counts.
    fn as_begun(&self, mut message: GenerateResponse) -> GenerateResponse {
        let Some(Only { answer, cached_prompt_tokens }) = self.only else { return message };
        match &mut message.event {
            Some(Event::Tokens(tokens)) => tokens.index = answer,
            Some(Event::Finished(finished)) => {
                finished.index = answer;
                let usage = finished.usage.get_or_insert_default();
                // The prompt is the first answer's. It was found in the cache, or not, by the replica that began.
                usage.prompt_tokens = if answer == 0 { usage.prompt_tokens } else { 0 };
                usage.cached_prompt_tokens = if answer == 0 { cached_prompt_tokens } else { 0 };
            }
            _ => {}
        }
        message
    }
}

/// A generation begins with Started.
pub(super) fn begin(opened: Opened) -> Result<(Started, Messages), Error> {
    let Opened { first, messages } = opened;
    match first.and_then(|message| message.event) {
        Some(Event::Started(started)) => Ok((started, Box::new(messages))),
        Some(Event::Tokens(_) | Event::Finished(_) | Event::PromptLogprobs(_)) | None => {
            Err(broken("a generation did not begin with Started"))
        }
    }
}
