//! A request's story: prompt → generate → detokenize → stop → screen, the last four for each of its answers.
//!
//! Map: `prompt` (the verdict on it), `fan` (several answers of one generation), `generate` (what inference says, and which
//! token is the end), `detokenize` (ids to text, through the tokenizer), `stop` (stop strings), `screen` (only cleared text,
//! through the safety filter), `ledger` (which token may be shown when), `calls` (those of the last stages, opened early),
//! `duplex` (a stage that is a call in both directions), `embed` and `moderate` (requests with shorter stories), `record`
//! (span and metrics of a request).
//!
//! Rules: a stage is a stream over the stage before it, and owns it: dropping the last one drops all, inference first.
//! No stage has a task of its own; one poll moves every stage on. What is on its way between two stages is bounded by
//! `pipeline.window`, and a caller who does not read is felt by inference through HTTP/2's windows. Nothing reaches the
//! caller that the safety filter has not cleared.

mod calls;
mod detokenize;
mod duplex;
mod embed;
mod fan;
mod generate;
mod ledger;
mod moderate;
mod prompt;
mod record;
mod screen;
mod stop;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::{
    Stream, StreamExt as _,
    future::{Either, Ready, ready, select},
    stream::{self, BoxStream},
};
use prometheus_client::metrics::histogram::Histogram;
use tokio::{task::yield_now, time::Instant};
use tracing::{Instrument as _, Span, info_span};
use weft_runtime::telemetry::fields;

use crate::{
    answer::{Echo, Event, Findings, FinishReason, Finished, Started, Token, Usage},
    config::Config,
    error::{Error, Peer},
    inbound::{
        admission::{Admission, Permit, Size, Visitor},
        quota::{self, Lease, Quotas, Reservation},
    },
    latency::{Phase, Progress},
    metrics::Metrics,
    models::{Models, Served},
    outbound::{Outbound, generation::Generation, inference::Generated},
    request::{Ask, Options, Prompt, Scope},
};
use calls::Calls;
use detokenize::Detokenize;
use duplex::Duplex;
use fan::Branch;
use generate::{Generate, Watch};
use prompt::Verdict;
use record::{Clock, Record};
use screen::Screen;
use stop::Stop;

pub(crate) use embed::{Embedded, Inputs};
pub(crate) use moderate::Moderated;

/// What an answer consists of after [`Started`].
pub(crate) type Events = BoxStream<'static, Result<Event, Error>>;

/// What a stage hands to the next one.
#[derive(Debug)]
enum Step<T> {
    /// More of the answer, and what there is to say about it.
    Piece(T, Note),
    /// The end of it; nothing follows.
    End(Ended),
}

/// What travels beside a piece of an answer.
#[derive(Debug, Default)]
struct Note {
    /// Tokens that came with it; none unless log-probabilities were asked for.
    tokens: Vec<Placed>,
    /// Tokens generated so far, this piece included.
    generated: u32,
    /// Bytes of text so far, this piece included, as they go to the safety filter.
    text_end: u64,
}

/// A token, and bytes of the model's text between which its own text is: at its border there may be a few more.
#[derive(Clone, Debug, PartialEq)]
struct Placed {
    token: Token,
    start: u64,
    end: u64,
}

/// How a generation ended.
#[derive(Debug)]
struct Ended {
    reason: FinishReason,
    stop_string: Option<String>,
    usage: Usage,
    /// Tokens that brought no further text, such as the end token.
    tokens: Vec<Placed>,
}

/// What a request passes before anything is done for it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) quotas: Quotas,
    pub(crate) admission: Admission,
}

/// Answers requests.
#[derive(Debug)]
pub(crate) struct Pipeline {
    outbound: Outbound,
    models: Models,
    doors: Doors,
    metrics: Arc<Metrics>,
    window: usize,
    default_policy: Option<String>,
    verdict_first: bool,
}

impl Pipeline {
    pub(crate) fn new(
        config: &Config,
        outbound: Outbound,
        models: Models,
        doors: Doors,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            outbound,
            models,
            doors,
            metrics,
            window: config.pipeline.window,
            default_policy: config.safety_filter.default_policy.clone(),
            verdict_first: config.safety_filter.verdict_first,
        }
    }

    /// Answers a request: resolves when its generation runs and its prompt is cleared, or the prompt is refused.
    pub(crate) async fn answer(&self, scope: &Scope, mut ask: Ask) -> Result<(Started, Events), Error> {
        let served = self.models.find(&ask.model, scope.deadline).await?;
        let record = Record::begin(&self.metrics, scope, ask.prompt.operation(), &served.model.id);
        match self.begin(scope, &mut ask, &served).await {
            Ok((Beginning { started, events, span, progress }, permit)) => {
                let clock = Clock::new(scope.latency.clone(), progress);
                let answers = ask.options.answers();
                Ok((started, record.over(events, answers, span, (permit, clock)).await))
            }
            Err(error) => Err(record.fail(error)),
        }
    }

    async fn begin(
        &self,
        scope: &Scope,
        ask: &mut Ask,
        served: &Served,
    ) -> Result<(Beginning, Permit), Error> {
        let lease = self.enter(scope, &served.model.id, ask.options.adapter_id.as_deref())?;
        let max_tokens = ask.options.stop.max_tokens;
        let size = Size { prompt: ask.prompt.extent(), max_tokens, answers: ask.options.answers() };
        let admitted = self.admit(scope, ask.options.priority, size).await;
        let permit = admitted.inspect_err(|error| lease.waive_for(error))?;
        let (policy, options) = (self.policy(ask.options.safety_policy.as_deref()), &ask.options);
        let story = Story { pipeline: self, scope, options, served, policy, lease, permit: &permit };
        let begun = story.begin(&mut ask.prompt).await;
        let (begun, reservation) = begun.inspect_err(|error| story.lease.waive_for(error))?;
        let held = quota::held(begun.events, (story.lease, reservation), ask.options.answers());
        Ok((Beginning { events: held.boxed(), ..begun }, permit))
    }

    /// Lets a request begin: its caller may use the model, and its tenant has room for another one.
    fn enter(&self, scope: &Scope, model: &str, adapter: Option<&str>) -> Result<Lease, Error> {
        scope.caller.may_use(model, adapter)?;
        self.doors.quotas.begin(scope.tenant(), model)
    }

    /// Waits for room, briefly.
    async fn admit(&self, scope: &Scope, priority: Option<i32>, size: Size) -> Result<Permit, Error> {
        let priority = priority.unwrap_or_default();
        let visitor = Visitor { tenant: scope.tenant(), priority, deadline: scope.deadline, size };
        scope.latency.is_worked_on();
        scope.latency.enter(Phase::Admission);
        let admitted = self.doors.admission.admit(visitor).await;
        scope.latency.enter(Phase::Gateway);
        admitted.map_err(|refusal| Error::NoRoom(Box::new(refusal)))
    }

    /// How these tokens are spelled, each by itself.
    pub(crate) async fn spell(&self, scope: &Scope, ids: Vec<u32>) -> Result<Vec<Vec<u8>>, Error> {
        self.outbound.tokenizer.spell(ids, scope.deadline).await
    }

    /// The name that the safety service is given; empty for its own default.
    fn policy(&self, asked: Option<&str>) -> String {
        asked.or(self.default_policy.as_deref()).unwrap_or_default().to_owned()
    }
}

/// What the stages of one request share.
struct Story<'a> {
    pipeline: &'a Pipeline,
    scope: &'a Scope,
    options: &'a Options,
    served: &'a Served,
    policy: String,
    lease: Lease,
    permit: &'a Permit,
}

/// A generation that runs, and its span.
struct Running {
    generation: Generation,
    span: Span,
    /// Of each answer.
    calls: Vec<Calls>,
}

/// An answer that can begin.
struct Beginning {
    started: Started,
    events: Events,
    span: Span,
    progress: Progress,
}

impl Story<'_> {
    /// Turns the prompt into ids, lets inference begin, and has the safety filter read it meanwhile: of the three only that
    /// can hide in the time of another. Nothing leaves before its verdict: a generation on a prompt that is refused or
    /// redacted is dropped unseen, or with `verdict_first` does not begin.
    async fn begin(&self, prompt: &mut Prompt) -> Result<(Beginning, Reservation), Error> {
        let (operation, field, latency) = (prompt.operation(), prompt.field(), &self.scope.latency);
        latency.enter(Phase::Tokenizer);
        if let Prompt::Ids { ids, text } = prompt {
            *text = self.decode(ids.clone(), field).await?;
        }
        let ids = Box::pin(self.encode(prompt)).await?;
        latency.enter(Phase::Screening);
        let verdict = Box::pin(async {
            // What was begun before this is on its way first: inference waits for its prompt, and nobody yet for a verdict.
            yield_now().await;
            self.screen(prompt.texts(), field).await
        });
        self.permit.prompt_has(ids.len());
        let reservation = self.reserve(&ids)?;
        let prompt_tokens = count(&ids);
        let ahead = Box::pin(self.generate(ids, &reservation, (operation, field)));
        let (verdict, ahead) = match self.pipeline.verdict_first {
            true => (verdict.await, Either::Right(ahead)),
            false => beside(ahead, verdict).await,
        };
        latency.enter(Phase::Network);
        let (verdict, findings) = verdict.inspect_err(|error| reservation.waive_for(error))?;
        match verdict {
            Verdict::Clear => {
                let running = ahead.await?;
                Ok((self.stream(running, &reservation, (prompt, findings))?, reservation))
            }
            Verdict::Blocked { .. } => {
                drop(ahead);
                reservation.charge_prompt()?;
                Ok((self.refusal(prompt_tokens, findings), reservation))
            }
            Verdict::Redacted(texts) => {
                // The model must not have seen what was redacted, so this generation ends and another begins.
                drop(ahead);
                reservation.waive();
                prompt.replace_texts(texts);
                latency.enter(Phase::Tokenizer);
                let ids = self.encode(prompt).await?;
                latency.enter(Phase::Network);
                let reservation = self.reserve(&ids)?;
                let running = self.generate(ids, &reservation, (operation, field)).await?;
                Ok((self.stream(running, &reservation, (prompt, findings))?, reservation))
            }
        }
    }

    async fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        let (tokenizer, deadline) = (&self.pipeline.outbound.tokenizer, self.scope.deadline);
        let stage = self.pipeline.metrics.stage("encode");
        let encode = async {
            match prompt {
                Prompt::Chat(conversation) => tokenizer.encode_chat(conversation, deadline).await,
                Prompt::Text { text, add_special_tokens } => {
                    tokenizer.encode(text, *add_special_tokens, "prompt", deadline).await
                }
                Prompt::Ids { ids, .. } => Ok(ids.clone()),
            }
        };
        Ok(timed(stage, encode.instrument(info_span!(target: fields::SPANS, "encode"))).await?)
    }

    /// What a prompt of tokens says.
    async fn decode(&self, ids: Vec<u32>, field: &str) -> Result<String, Error> {
        let (tokenizer, deadline) = (&self.pipeline.outbound.tokenizer, self.scope.deadline);
        let decode = tokenizer.decode_all(ids, field, deadline);
        let span = info_span!(target: fields::SPANS, "decode_prompt");
        Ok(timed(self.pipeline.metrics.stage("decode_prompt"), decode.instrument(span)).await?)
    }

    async fn screen(&self, texts: Vec<String>, field: &str) -> Result<(Verdict, Findings), Error> {
        let screen = prompt::screen(
            &self.pipeline.outbound.safety,
            texts,
            prompt::Screening { policy: &self.policy, field, deadline: self.scope.deadline },
        );
        let stage = self.pipeline.metrics.stage("screen_prompt");
        let (verdict, findings) =
            timed(stage, screen.instrument(info_span!(target: fields::SPANS, "screen_prompt"))).await?;
        self.pipeline.metrics.count_findings("prompt", &findings);
        Ok((verdict, findings))
    }

    /// Reserves what the generation may use: what it asks for, or where it does not, all that the context holds if that is
    /// left.
    fn reserve(&self, ids: &[u32]) -> Result<Reservation, Error> {
        let prompt = count(ids);
        let room = u64::from(self.served.model.context_length.saturating_sub(prompt)).max(1);
        let stop = &self.options.stop;
        let (least, most) = match stop.max_tokens {
            Some(tokens) => (room.min(tokens.into()), room.min(tokens.into())),
            None => (room.min(stop.min_tokens.unwrap_or(1).max(1).into()), room),
        };
        let answers = u64::from(self.options.answers());
        self.lease.reserve(prompt, least * answers, most * answers)
    }

    /// Begins a generation, within what is reserved for it, and waits until its prompt is in the cache. The prompt is paid
    /// from the moment that it leaves.
    async fn generate(
        &self,
        ids: Vec<u32>,
        reservation: &Reservation,
        (operation, field): (&'static str, &str),
    ) -> Result<Running, Error> {
        let span = record::generation_span(self.scope, operation, &self.served.model.id);
        let (inference, sent) = (&self.pipeline.outbound.inference, Instant::now());
        let options = reservation.bound(self.options);
        reservation.charge_prompt()?;
        // What is opened here belongs to the generation.
        let mut calls: Vec<_> = span.in_scope(|| (0..self.options.answers()).map(|_| self.calls()).collect());
        let begin = Box::pin(inference.generate(ids, &options, field, self.scope).instrument(span.clone()));
        let begin = calls::prepared_beside(begin, &mut calls);
        let begun = timed(self.pipeline.metrics.stage("generate"), begin).await;
        let generation = begun.inspect_err(|error| reservation.waive_for(error))?;
        self.permit.started(sent, generation.queued);
        Ok(Running { generation, span, calls })
    }

    fn calls(&self) -> Calls {
        let Pipeline { outbound, window, .. } = self.pipeline;
        Calls::new(outbound, self.policy.clone(), *window, self.scope.deadline)
    }

    /// Puts the stages of every answer together.
    fn stream(
        &self,
        running: Running,
        reservation: &Reservation,
        (prompt, findings): (&Prompt, Findings),
    ) -> Result<Beginning, Error> {
        let Running { mut generation, span, calls } = running;
        let mut started = self.started(generation.prompt_tokens, generation.seed);
        started.echo = self.options.echo.then(|| Echo {
            text: prompt.texts().join("\n"),
            tokens: std::mem::take(&mut generation.prompt),
        });
        self.pipeline.metrics.input_tokens(&self.served.model.id).inc_by(started.prompt_tokens.into());
        self.scope.latency.started(generation.queued, generation.prefill);
        let (progress, readers) = (Progress::default(), generation.readers.clone());
        let charged = quota::charged(generation, reservation.clone());
        let count = readers.count();
        // The prompt is charged to the first answer, and its findings are told there: what all say adds up.
        let mut prompt = (started.prompt_tokens, findings);
        let mut answers: Vec<Events> = Vec::with_capacity(count);
        let branches = fan::split(charged, readers, self.pipeline.window);
        for (index, (branch, calls)) in (0..).zip(branches.into_iter().zip(calls)) {
            answers.push(self.stages(
                (branch, calls),
                index,
                std::mem::take(&mut prompt),
                (&span, &progress),
            ));
        }
        let events = if count == 1 { answers.remove(0) } else { stream::select_all(answers).boxed() };
        Ok(Beginning { started, events, span, progress })
    }

    /// Puts the stages of one answer together; each owns the one before it.
    fn stages<G>(
        &self,
        (branch, calls): (Branch<G>, Calls),
        index: u32,
        prompt: (u32, Findings),
        (span, progress): (&Span, &Progress),
    ) -> Events
    where
        G: Stream<Item = Result<Generated, Error>> + Send + Unpin + 'static,
    {
        let Pipeline { metrics, window, .. } = self.pipeline;
        let (model, Calls { decoding, screening }) = (&self.served.model, calls);
        let tokens = metrics.output_tokens(&model.id);
        let watch = Watch { count: tokens, span: span.clone(), progress: progress.clone() };
        let generated = Generate::new(branch, self.options, &model.end_token_ids, watch);
        let met = metrics.stop_strings.clone();
        let decoding = (progress.underway(Peer::Tokenizer), decoding);
        let pairs = Duplex::new(generated, decoding, *window, metrics.stage("detokenize"));
        let stopped = Stop::new(Detokenize::new(pairs), &self.options.stop, prompt.0, met);
        let screening = (progress.underway(Peer::Safety), screening);
        let pairs = Duplex::new(stopped, screening, *window, metrics.stage("screen_answer"));
        Screen::new(pairs, index, prompt, Arc::clone(metrics)).boxed()
    }

    /// A prompt that the policy blocks is answered, not failed.
    fn refusal(&self, prompt_tokens: u32, findings: Findings) -> Beginning {
        let finished = |index: u32| Finished {
            index,
            reason: FinishReason::ContentFilter,
            stop_string: None,
            usage: Usage { prompt: if index == 0 { prompt_tokens } else { 0 }, ..Usage::default() },
            findings: if index == 0 { findings.clone() } else { Findings::new() },
            blocked_prompt: Some(true),
            quota_reached: false,
        };
        let all: Vec<_> =
            (0..self.options.answers()).map(|index| Ok(Event::Finished(finished(index)))).collect();
        // No seed is in use, since nothing is generated; what was asked for is what would have been.
        let started = self.started(prompt_tokens, self.options.sampling.seed.unwrap_or_default());
        let events = stream::iter(all);
        Beginning { started, events: events.boxed(), span: Span::none(), progress: Progress::default() }
    }

    fn started(&self, prompt_tokens: u32, seed: u64) -> Started {
        let model = self.served.model.id.clone();
        Started { request_id: self.scope.request_id.clone(), model, prompt_tokens, seed, echo: None }
    }
}

/// How many ids there are.
fn count(ids: &[u32]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

/// Waits for `first` while `ahead`, which begins before it, runs beside it. What has come of `ahead` by then, or will, is
/// still a future.
async fn beside<A, F>(ahead: A, first: F) -> (F::Output, Either<Ready<A::Output>, A>)
where
    A: Future + Unpin,
    F: Future + Unpin,
{
    match select(ahead, first).await {
        Either::Right((first, ahead)) => (first, Either::Right(ahead)),
        Either::Left((done, first)) => (first.await, Either::Left(ready(done))),
    }
}

/// Observes how long a future takes, if it is not dropped.
async fn timed<F: Future>(seconds: Histogram, future: F) -> F::Output {
    let begun = Instant::now();
    let output = future.await;
    seconds.observe(begun.elapsed().as_secs_f64());
    output
}
