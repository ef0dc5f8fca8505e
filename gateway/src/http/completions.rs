//! `POST /v1/completions`: texts or tokens continued, one or several at once, or only looked at (`echo` with
//! `max_tokens` 0, as evaluations do).
//!
//! Map: `parse` (what is asked), `answer` (how it is told).

mod answer;
pub(super) mod parse;

use std::{pin::Pin, sync::Arc};

use axum::extract::{Request, State};
use bytes::Bytes;
use futures::{
    Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    stream::{self, BoxStream, Peekable},
};
use http::Response;
use tonic::{Status, body::Body};

use self::{
    answer::{Teller, Telling, Told, Whole},
    parse::Asked,
};
use super::{Desk, Refusal, json, options::Delivery, spelling::Spelling, sse, wire};
use crate::{
    answer::{Echo, Event},
    error::Error,
    pipeline::Pipeline,
    request::{Ask, Scope},
};

/// Prompts of one request that are worked on at the same time: enough to fill a batch, few enough that one request with many
/// does not crowd out the others.
const AT_ONCE: usize = 8;

/// Continues prompts.
pub(super) async fn complete(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Refusal> {
    let scope = desk.scope(&request)?;
    desk.told(&scope, answer(&desk, &scope, request).await)
}

async fn answer(desk: &Desk, scope: &Scope, request: Request) -> Result<Response<Body>, Status> {
    let body = json::object(request, desk.most_bytes).await?;
    let Asked { mut asks, delivery, prompt_only } = parse::read(body, &desk.limits)?;
    let Some(first) = asks.first() else { return Err(Status::internal("no prompt passed the rules")) };
    let telling = Telling {
        head: wire::Head::new("cmpl", "text_completion", scope, first.model.clone()),
        count: asks.len() * first.options.answers() as usize,
        logprobs: first.options.top_logprobs.is_some(),
        prompt_only,
    };
    for ask in &mut asks {
        desk.resolve(scope, ask).await?;
    }
    let spelling = Spelling::new(Arc::clone(&desk.pipeline), scope.clone());
    let mut news = news(&desk.pipeline, scope, asks).peekable();
    // Whether the first prompt is answered at all decides how the response begins.
    let refused = Pin::new(&mut news).peek().await.is_some_and(Result::is_err);
    if refused && let Some(Err(error)) = news.next().await {
        return Err(error.into());
    }
    if delivery.stream {
        return Ok(sse::response(told(Teller::new(telling), news, spelling, delivery)));
    }
    wire::json(&whole(Whole::new(telling), news, spelling).await?.told())
}

/// What happens to one of the completions.
#[derive(Debug)]
enum News {
    Began(Echo),
    Event(Event),
}

impl News {
    fn told(&self) -> Told<'_> {
        match self {
            Self::Began(echo) => Told::Echo(echo),
            Self::Event(Event::Delta { text, tokens, .. }) => Told::Delta(text.clone(), tokens),
            Self::Event(Event::Finished(finished)) => Told::Finished(finished.clone()),
        }
    }
}

type AllNews = BoxStream<'static, Result<(usize, News), Error>>;

/// What happens to all completions of all prompts, in the order in which it happens.
fn news(pipeline: &Arc<Pipeline>, scope: &Scope, asks: Vec<Ask>) -> AllNews {
    let of = |(index, ask): (usize, Ask)| of_prompt(Arc::clone(pipeline), scope.clone(), index, ask);
    let all: Vec<_> = asks.into_iter().enumerate().map(of).collect();
    stream::iter(all).flatten_unordered(AT_ONCE).boxed()
}

fn of_prompt(pipeline: Arc<Pipeline>, scope: Scope, index: usize, ask: Ask) -> AllNews {
    let answers = ask.options.answers() as usize;
    let begun = async move { pipeline.answer(&scope, ask).await };
    let happens = begun.map_ok(move |(started, events)| {
        // The prompt stands before each of its completions.
        let echo = started.echo.map(|echo| {
            (0..answers).map(move |answer| Ok((index * answers + answer, News::Began(echo.clone()))))
        });
        let events =
            events.map_ok(move |event| (index * answers + event.index() as usize, News::Event(event)));
        stream::iter(echo.into_iter().flatten()).chain(events)
    });
    happens.try_flatten_stream().boxed()
}

fn told(
    teller: Teller,
    news: Peekable<AllNews>,
    spelling: Spelling,
    delivery: Delivery,
) -> impl Stream<Item = Result<Bytes, Status>> {
    let state = (teller, news, spelling);
    let events = stream::try_unfold(state, move |(mut teller, mut news, mut spelling)| async move {
        let Some((index, more)) = news.next().await.transpose()? else { return Ok(None) };
        learn(&mut spelling, &more).await?;
        let event = teller.event(index, more.told(), &spelling, delivery);
        Ok::<_, Error>(Some((event, (teller, news, spelling))))
    });
    events.try_filter(|event| std::future::ready(!event.is_empty())).err_into()
}

async fn whole(
    mut whole: Whole,
    mut news: Peekable<AllNews>,
    mut spelling: Spelling,
) -> Result<Whole, Error> {
    while let Some((index, more)) = news.next().await.transpose()? {
        learn(&mut spelling, &more).await?;
        whole.add(index, more.told(), &spelling);
    }
    Ok(whole)
}

async fn learn(spelling: &mut Spelling, news: &News) -> Result<(), Error> {
    match news {
        News::Began(Echo { tokens, .. }) | News::Event(Event::Delta { tokens, .. }) => {
            spelling.learn(tokens).await
        }
        News::Event(Event::Finished(_)) => Ok(()),
    }
}
