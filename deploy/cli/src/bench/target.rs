//! Whom the load is put on.

use futures::{Stream, StreamExt as _, stream::BoxStream};

use crate::grpc::{
    Call, Generation, Refusal,
    answer::{Gateway, Piece, Question, Speaker, Turn},
    ids::{Inference, Step},
};

/// What one request asks.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    /// A text to continue, or to answer.
    Text(String),
    /// Token ids to continue.
    Ids(Vec<u32>),
}

/// Whom.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The gateway's Complete: all four services.
    Complete(Gateway),
    /// The gateway's Chat: all four services and the chat template.
    Chat(Gateway),
    /// Inference alone.
    Inference(Inference),
}

/// What a request gets, as far as it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// The next text or tokens.
    Output,
    /// The end.
    Finished {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
    },
}

impl Target {
    /// Asks, and gives what comes.
    ///
    /// # Errors
    /// Whatever is refused, before or within the answer.
    pub(crate) async fn ask(
        &self,
        prompt: Prompt,
        generation: &Generation,
        call: Call,
    ) -> Result<BoxStream<'static, Result<Tick, Refusal>>, Refusal> {
        match (self, prompt) {
            (Self::Complete(gateway), Prompt::Text(text)) => {
                Ok(from_text(gateway.ask(Question::Complete(text), generation, call).await?))
            }
            (Self::Chat(gateway), Prompt::Text(text)) => {
                let turn = Turn { speaker: Speaker::User, text };
                Ok(from_text(gateway.ask(Question::Chat(vec![turn]), generation, call).await?))
            }
            (Self::Inference(inference), Prompt::Ids(ids)) => {
                Ok(inference.generate(ids, generation, call).await?.map(|step| step.map(from_step)).boxed())
            }
            (Self::Complete(_) | Self::Chat(_), Prompt::Ids(_)) | (Self::Inference(_), Prompt::Text(_)) => {
                unreachable!("prompts are made for their target")
            }
        }
    }
}

fn from_text(
    pieces: impl Stream<Item = Result<Piece, Refusal>> + Send + 'static,
) -> BoxStream<'static, Result<Tick, Refusal>> {
    let tick = |piece: Result<Piece, Refusal>| async {
        match piece {
            Ok(Piece::Started { .. }) => None,
            Ok(Piece::Text(_)) => Some(Ok(Tick::Output)),
            Ok(Piece::Finished(ending)) => Some(Ok(Tick::Finished {
                prompt_tokens: ending.prompt_tokens,
                completion_tokens: ending.completion_tokens,
            })),
            Err(refusal) => Some(Err(refusal)),
        }
    };
    pieces.filter_map(tick).boxed()
}

fn from_step(step: Step) -> Tick {
    match step {
        Step::Tokens => Tick::Output,
        Step::Finished { prompt_tokens, completion_tokens } => {
            Tick::Finished { prompt_tokens, completion_tokens }
        }
    }
}
