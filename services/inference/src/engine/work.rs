//! What the engine keeps with a sequence: who waits for it, and what is done with what the model gives. A token is
//! decided first, beside those of the whole step, and handed out then.

use tokio::{sync::oneshot, time::Instant};

use super::{
    outbox::{Event, Finished, Outbox},
    places::Place,
    score::{PromptScores, Score, Scoring},
    timeline::Timeline,
};
use crate::{
    constraint::{Grammar, Guide, Progress},
    error::EngineError,
    metrics::{EngineMetrics, Outcome},
    model::Wanted,
    request::Generate,
    sampler::{Allowed, Choice, Chooser, Sampler, SamplingError},
    scheduler::Ran,
    sequence::Sequence,
    stop::{Ending, StopRules},
};

/// A request's own part of a sequence.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) timeline: Timeline,
    pub(super) answer: Answer,
    /// Held as long as the request is.
    pub(super) _place: Place,
}

/// Who waits, and for what.
#[derive(Debug)]
pub(super) enum Answer {
    /// A stream of tokens.
    Tokens(Box<Tokens>),
    /// One vector.
    Embedding(Embedding),
    /// How likely each token is.
    Scores(Scoring),
}

/// A generation.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) outbox: Outbox,
    /// How likely the prompt is, where that is to be told.
    pub(super) prompt: Option<PromptScores>,
    pub(super) chooser: Chooser,
    pub(super) rules: StopRules,
    /// What leads it through its constraint, if it has one.
    pub(super) guide: Option<Guide>,
    /// Whether its caller knows that it runs.
    pub(super) started: bool,
    /// How many tokens it has said elsewhere.
    pub(super) said_elsewhere: usize,
    /// The last of them, until it goes on here.
    pub(super) said_last: Option<u32>,
    /// What this step's logits came to, until it is handed out: more than one where guesses were right.
    pub(super) decided: Vec<Result<Decision, EngineError>>,
}

/// What logits came to.
#[derive(Debug)]
pub(super) enum Decision {
    /// A token, and how far the constraint is with it.
    Token(Choice, Progress),
    /// It had ended already where it was said before.
    EndedElsewhere(Ending),
}

/// A mean of hidden states in the making.
#[derive(Debug)]
pub(super) struct Embedding {
    pub(super) sum: Vec<f32>,
    /// Gone once it was used.
    pub(super) reply: Option<oneshot::Sender<Result<Vec<f32>, EngineError>>>,
}

/// What a step gave to one sequence beside a choice.
pub(super) struct Given<'a> {
    /// How likely tokens of its prompt are.
    pub(super) scores: &'a mut [Score],
    /// The sum of the hidden states of its rows.
    pub(super) hidden_sum: Option<&'a [f32]>,
}

/// What handing out needs beside the sequence.
pub(super) struct Hands<'a> {
    pub(super) metrics: &'a EngineMetrics,
    pub(super) model: &'a str,
    pub(super) now: Instant,
}

/// Where a sequence stands whose tokens are chosen.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) prompt_tokens: usize,
    pub(super) generated: usize,
    /// What was guessed to follow.
    pub(super) draft: &'a [u32],
}

/// How far a sequence is.
#[derive(Clone, Copy)]
struct Seen {
    prompt_tokens: usize,
    cached_prompt_tokens: usize,
    generated: usize,
    preemptions: u32,
    complete: bool,
}

impl Work {
    /// The continuation of a request that speaks into `outbox`.
    pub(super) fn of(request: &Generate, outbox: Outbox, place: Place) -> Self {
        let chooser = Chooser::new(request.params.clone(), request.top_logprobs, &request.prompt);
        let resumption = request.resumption.clone().unwrap_or_default();
        let chooser = chooser.of_continuation(outbox.index + resumption.index).behind(&resumption.said);
        // The first tells of the prompt, for all.
        let told = request.prompt_top_logprobs.filter(|_| outbox.index == 0);
        let prompt = told.map(|_| PromptScores::of(&request.prompt));
        let (said_elsewhere, said_last) = (resumption.said.len(), resumption.said.last().copied());
        let guide = request.grammar.as_ref().map(|grammar| guide(grammar, resumption.said));
        let rules = request.rules.clone();
        let (started, decided) = (false, Vec::new());
        let tokens =
            Tokens { outbox, prompt, chooser, rules, guide, started, said_elsewhere, said_last, decided };
        let answer = Answer::Tokens(Box::new(tokens));
        Self { timeline: Timeline::arrive(request.priority), answer, _place: place }
    }

    /// Chooses the next token from its logits, where tokens are what it is for, and goes on as long as the draft has
    /// guessed it.
    pub(super) fn decide(&mut self, logits: &mut [f32], at: At<'_>, sampler: &mut Sampler) {
        if let Answer::Tokens(tokens) = &mut self.answer {
            tokens.decide_all(logits, at, sampler);
        }
    }

    /// Tells whoever waits that there will be no answer, or no more of it.
    pub(super) fn fail(&mut self, error: EngineError) {
        match &mut self.answer {
            Answer::Tokens(tokens) => tokens.outbox.send(Err(error)),
            Answer::Embedding(embedding) => embedding.reply(Err(error)),
            Answer::Scores(scoring) => scoring.reply(Err(error)),
        };
    }
}

/// What leads through a grammar, behind what was said elsewhere.
fn guide(grammar: &Grammar, said: Vec<u32>) -> Guide {
    if said.is_empty() { grammar.guide() } else { grammar.guide_behind(said) }
}

/// Does with a sequence what the step has given it. Answers how it ended, if it did.
pub(super) fn settle(
    sequence: &mut Sequence<Work>,
    ran: Ran,
    given: Given<'_>,
    hands: &mut Hands<'_>,
) -> Option<Outcome> {
    let seen = Seen {
        prompt_tokens: sequence.prompt_len(),
        cached_prompt_tokens: sequence.cached(),
        generated: sequence.output_len(),
        preemptions: sequence.preemptions,
        complete: sequence.remaining() == 0,
    };
    let Work { timeline, answer, .. } = &mut sequence.payload;
    if let Err(error) = answer.take(given.scores) {
        sequence.payload.fail(error.into());
        return Some(Outcome::UnusableOutput);
    }
    match answer {
        Answer::Tokens(tokens) => {
            let (said, outcome) = tokens.hand_out_all(seen, timeline, hands);
            said.into_iter().for_each(|token| sequence.push(token));
            outcome
        }
        Answer::Embedding(embedding) => {
            embedding.add(given.hidden_sum?, ran.first_position == 0);
            seen.complete.then(|| embedding.finish(seen.prompt_tokens))
        }
        Answer::Scores(scoring) => seen.complete.then(|| scoring.finish()),
    }
}

impl Answer {
    /// Keeps what is known of the prompt's likelihood.
    fn take(&mut self, scores: &mut [Score]) -> Result<(), SamplingError> {
        match self {
            Self::Tokens(tokens) => tokens.prompt.as_mut().map_or(Ok(()), |prompt| prompt.take(scores)),
            Self::Scores(scoring) => scoring.take(scores),
            Self::Embedding(_) => Ok(()),
        }
    }
}

impl Tokens {
    /// Hands out all that was decided, until it ends. Answers the tokens, and how it ended, if it did.
    fn hand_out_all(
        &mut self,
        seen: Seen,
        timeline: &mut Timeline,
        hands: &mut Hands<'_>,
    ) -> (Vec<u32>, Option<Outcome>) {
        let (mut said, mut outcome) = (Vec::new(), None);
        // The buffer comes back: it serves every token.
        let mut all = std::mem::take(&mut self.decided);
        for decided in all.drain(..) {
            let seen = Seen { generated: seen.generated + said.len(), ..seen };
            let (token, ended) = self.hand_out(decided, seen, timeline, hands);
            said.extend(token);
            outcome = ended;
            if outcome.is_some() {
                break;
            }
        }
        self.decided = all;
        (said, outcome)
    }

    /// Hands out what was decided. Answers the token, and how it ended, if it did.
    fn hand_out(
        &mut self,
        decided: Result<Decision, EngineError>,
        seen: Seen,
        timeline: &mut Timeline,
        hands: &mut Hands<'_>,
    ) -> (Option<u32>, Option<Outcome>) {
        let decision = match decided {
            Ok(decision) => decision,
            Err(error) => return (None, Some(self.give_up(error))),
        };
        self.start(seen, timeline, hands);
        let (choice, progress) = match decision {
            Decision::Token(choice, progress) => (choice, progress),
            Decision::EndedElsewhere(ending) => {
                return (None, Some(self.finish(ending, seen, timeline, hands)));
            }
        };
        let (token, generated) = (choice.token, seen.generated + 1);
        let index = self.outbox.index;
        let listens = self.outbox.send(Ok(Event::Token { index, choice }));
        let outcome = match self.ending(token, generated, progress) {
            Some(ending) => Some(self.finish(ending, Seen { generated, ..seen }, timeline, hands)),
            None if listens => {
                // While the others are served and the model computes, the next mask is.
                self.guide.iter_mut().for_each(Guide::prepare);
                None
            }
            None => Some(Outcome::Aborted),
        };
        (Some(token), outcome)
    }

    /// How it has ended where it was said before, if it goes on here and had.
    fn ended_elsewhere(&mut self, generated: usize) -> Result<Option<Ending>, EngineError> {
        let Some(last) = self.said_last.take() else { return Ok(None) };
        let progress = self.guide.as_mut().map_or(Ok(Progress::Goes), Guide::caught_up)?;
        Ok(self.ending(last, generated, progress))
    }

    /// Says that it runs, and what its prompt is like, with its first token here.
    fn start(&mut self, seen: Seen, timeline: &mut Timeline, hands: &Hands<'_>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let Seen { prompt_tokens, cached_prompt_tokens, .. } = seen;
        let waited = timeline.first_token(hands.now, hands.model, cached_prompt_tokens);
        hands.metrics.time_to_first_token.observe((waited.queue + waited.prefill).as_secs_f64());
        let seed = self.chooser.seed();
        self.outbox.send(Ok(Event::Started { prompt_tokens, seed, cached_prompt_tokens, waited }));
        self.prompt.take().into_iter().for_each(|prompt| prompt.tell(&self.outbox));
    }

    /// Says why it cannot go on.
    fn give_up(&self, error: EngineError) -> Outcome {
        let outcome = match error {
            EngineError::Guide(_) => Outcome::ConstraintFailed,
            _ => Outcome::UnusableOutput,
        };
        self.outbox.send(Err(error));
        outcome
    }

    /// Chooses one token after the other, as long as it is the one that was guessed and does not end it.
    fn decide_all(&mut self, logits: &mut [f32], at: At<'_>, sampler: &mut Sampler) {
        let vocabulary = logits.len() / (1 + at.draft.len());
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            let generated = at.generated + row;
            let decided = self.decide(logits, at.prompt_tokens, generated, sampler);
            let guessed = matches!(&decided, Ok(Decision::Token(choice, progress))
                if at.draft.get(row) == Some(&choice.token)
                    && self.ending(choice.token, generated + 1, *progress).is_none());
            self.decided.push(decided);
            if !guessed {
                return;
            }
        }
    }

    /// Chooses the next token and follows it through the constraint: what cannot be followed is not handed out.
    fn decide(
        &mut self,
        logits: &mut [f32],
        prompt_tokens: usize,
        generated: usize,
        sampler: &mut Sampler,
    ) -> Result<Decision, EngineError> {
        if let Some(ending) = self.ended_elsewhere(generated)? {
            return Ok(Decision::EndedElsewhere(ending));
        }
        let mask = self.guide.as_mut().map(Guide::mask).transpose()?;
        let allowed = Allowed { forbidden: self.rules.forbidden(generated), mask: mask.as_deref() };
        let choice = sampler.choose(logits, &mut self.chooser, allowed, prompt_tokens + generated)?;
        let progress = match &mut self.guide {
            Some(guide) => guide.accept(choice.token)?,
            None => Progress::Goes,
        };
        Ok(Decision::Token(choice, progress))
    }

    /// How it ends with `token`, the `generated`-th of it, if it does.
    fn ending(&self, token: u32, generated: usize, progress: Progress) -> Option<Ending> {
        match progress {
            Progress::Goes => self.rules.after(token, generated),
            Progress::Complete if self.rules.is_end(token) => Some(Ending::Stop(token)),
            Progress::Complete => Some(Ending::Complete),
        }
    }

    fn finish(&self, ending: Ending, seen: Seen, timeline: &Timeline, hands: &Hands<'_>) -> Outcome {
        let (outcome, reason) = match ending {
            Ending::Stop(_) | Ending::Complete => (Outcome::Stop, "stop"),
            Ending::Length => (Outcome::Length, "length"),
        };
        let here = seen.generated - self.said_elsewhere;
        let timings = timeline.finish(hands.now, seen.preemptions, here, reason);
        hands.metrics.prefill_time.observe(timings.prefill.as_secs_f64());
        hands.metrics.decode_time.observe(timings.decode.as_secs_f64());
        if here > 1 {
            let each = timings.decode.as_secs_f64() / (here - 1) as f64;
            hands.metrics.time_per_output_token.observe(each);
        }
        self.outbox.send(Ok(Event::Finished(Finished {
            index: self.outbox.index,
            ending,
            prompt_tokens: seen.prompt_tokens,
            cached_prompt_tokens: seen.cached_prompt_tokens,
            completion_tokens: seen.generated,
            timings,
        })));
        outcome
    }
}

impl Embedding {
    /// Adds a chunk's hidden states; `anew` where it is the first chunk, perhaps for the second time.
    fn add(&mut self, chunk: &[f32], anew: bool) {
        if anew {
            self.sum.clear();
            self.sum.resize(chunk.len(), 0.0);
        }
        self.sum.iter_mut().zip(chunk).for_each(|(total, part)| *total += part);
    }

    /// Answers with the mean of `count` hidden states, scaled to length 1.
    fn finish(&mut self, count: usize) -> Outcome {
        let mean = |value: &f32| f64::from(*value) / count as f64;
        let length = self.sum.iter().map(|value| mean(value).powi(2)).sum::<f64>().sqrt();
        if !length.is_finite() || length == 0.0 {
            self.reply(Err(EngineError::NoEmbedding));
            return Outcome::UnusableOutput;
        }
        let unit = self.sum.iter().map(|value| (mean(value) / length) as f32).collect();
        self.reply(Ok(unit));
        Outcome::Embedded
    }

    /// Answers whether somebody still waited.
    fn reply(&mut self, answer: Result<Vec<f32>, EngineError>) -> bool {
        self.reply.take().is_some_and(|reply| reply.send(answer).is_ok())
    }
}

/// Deals out what a step gave, sequence by sequence in the batch's order.
pub(super) struct Dealer<'a> {
    hidden_sums: std::slice::ChunksExact<'a, f32>,
    scores: &'a mut [Score],
}

impl<'a> Dealer<'a> {
    /// `hidden_size` sums for each sequence that wants them.
    pub(super) fn new(output: &'a mut crate::model::StepOutput, info: &crate::model::ModelInfo) -> Self {
        Self { hidden_sums: output.hidden_sums.chunks_exact(info.hidden_size), scores: &mut output.scores }
    }

    pub(super) fn next(&mut self, ran: &Ran) -> Given<'a> {
        let scores = self.scores.split_off_mut(..ran.scored).unwrap_or_default();
        let hidden_sum = if ran.wanted == Wanted::HiddenSum { self.hidden_sums.next() } else { None };
        Given { scores, hidden_sum }
    }
}
