//! `POST /v1/chat/completions`.
//!
//! Map: `parse` (what is asked), `calls` (tool calls in what the model says), `answer` (how it is told).

mod answer;
mod calls;
mod parse;

use std::sync::Arc;

use axum::extract::{Request, State};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Response;
use tonic::{Status, body::Body};

pub(super) use self::parse::part;
use self::{
    answer::{Events, Telling, Whole},
    calls::Reader,
    parse::{Asked, Calls},
};
use super::{Desk, Refusal, json, spelling::Spelling, sse, wire};
use crate::{
    answer::{Event, Started},
    error::Error,
    pipeline,
    request::{Ask, Prompt, Scope},
};

/// Answers a conversation.
pub(super) async fn complete(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request).map_err(Refusal::from)?;
    desk.told(&scope, answer(&desk, &scope, request).await)
}

async fn answer(desk: &Desk, scope: &Scope, request: Request) -> Result<Response<Body>, Status> {
    let body = json::object(request, desk.most_bytes).await?;
    let Asked { mut ask, delivery, calls } = parse::read(body, &desk.limits)?;
    let (readers, logprobs) = (readers(&ask, calls), ask.options.top_logprobs.is_some());
    // The answer names what was asked for, which may be an adapter.
    let model = ask.model.clone();
    desk.resolve(scope, &mut ask).await?;
    let (Started { .. }, events) = desk.pipeline.answer(scope, ask).await?;
    let spelling = Spelling::new(Arc::clone(&desk.pipeline), scope.clone());
    let telling =
        |object| Telling { head: wire::Head::new("chatcmpl", object, scope, model), readers, logprobs };
    if delivery.stream {
        let events_told = Events::new(telling("chat.completion.chunk"), delivery);
        return Ok(sse::response(told(events_told, events, spelling)));
    }
    let whole = whole(Whole::new(telling("chat.completion")), events, spelling).await?;
    wire::json(&whole.told())
}

/// One reader of calls for each answer, where there can be calls.
fn readers(ask: &Ask, calls: Calls) -> Vec<Option<Reader>> {
    let names = match &ask.prompt {
        Prompt::Chat(talk) => talk.tools.iter().map(|tool| tool.name.clone()).collect(),
        Prompt::Text { .. } | Prompt::Ids { .. } => Vec::new(),
    };
    let reader = |names: Vec<String>| match calls {
        Calls::None => None,
        Calls::Marked => Some(Reader::marked(names)),
        Calls::Forced => Some(Reader::forced(names)),
    };
    (0..ask.options.answers()).map(|_| reader(names.clone())).collect()
}

fn told(
    events: Events,
    answer: pipeline::Events,
    spelling: Spelling,
) -> impl stream::Stream<Item = Result<bytes::Bytes, Status>> {
    let first = stream::iter([Ok(events.begin())]);
    let rest =
        stream::try_unfold((events, answer, spelling), |(mut events, mut answer, mut spelling)| async move {
            let Some(event) = answer.next().await.transpose()? else { return Ok(None) };
            learn(&mut spelling, &event).await?;
            let told = events.on(event, &spelling);
            Ok::<_, Error>(Some((told, (events, answer, spelling))))
        });
    first.chain(rest.err_into())
}

async fn whole(
    mut whole: Whole,
    mut answer: pipeline::Events,
    mut spelling: Spelling,
) -> Result<Whole, Error> {
    while let Some(event) = answer.try_next().await? {
        learn(&mut spelling, &event).await?;
        whole.on(event, &spelling);
    }
    Ok(whole)
}

async fn learn(spelling: &mut Spelling, event: &Event) -> Result<(), Error> {
    match event {
        Event::Delta { tokens, .. } => spelling.learn(tokens).await,
        Event::Finished(_) => Ok(()),
    }
}
