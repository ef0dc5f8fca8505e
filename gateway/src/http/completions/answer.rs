//! A completion as it is told: as a whole, or event by event.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    answer::{Echo, Finished, Token, Usage},
    http::{
        options::Delivery,
        spelling::Spelling,
        sse,
        wire::{self, Extras, Head},
    },
};

/// OpenAI's older form of log-probabilities: a list for each property of a token.
#[derive(Debug, Default, Serialize)]
struct Logprobs {
    tokens: Vec<String>,
    /// As wide as those of `top_logprobs`: readers compare the two.
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

/// How far the tokens of an answer have come.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Characters before the next token.
    characters: usize,
}

impl Place {
    fn logprobs(&mut self, tokens: &[Token], spelling: &Spelling) -> Logprobs {
        let mut told = Logprobs::default();
        for token in tokens {
            told.tokens.push(spelling.text(token.id));
            told.token_logprobs.push(token.logprob.map(f64::from));
            told.top_logprobs.push(token.logprob.map(|_| likeliest(token, spelling)));
            told.text_offset.push(self.characters);
            // A character begins with its first byte, in whichever token that is.
            self.characters += spelling.bytes(token.id).iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
        }
        told
    }
}

/// The likeliest tokens by their text. Of several with the same text the likeliest stands.
fn likeliest(token: &Token, spelling: &Spelling) -> Map<String, Value> {
    let mut told = Map::new();
    for (id, logprob) in &token.top {
        told.entry(spelling.text(*id)).or_insert_with(|| json!(logprob));
    }
    told
}

impl Logprobs {
    fn extend(&mut self, more: Self) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}

/// One completion, or a part of it.
#[derive(Debug, Default, Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    extras: Extras,
}

/// What all completions of one request share.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) head: Head,
    /// How many there are, of all prompts.
    pub(super) count: usize,
    /// Whether log-probabilities were asked for.
    pub(super) logprobs: bool,
    /// Whether only the prompts are told.
    pub(super) prompt_only: bool,
}

/// Tells completions.
#[derive(Debug)]
pub(super) struct Teller {
    telling: Telling,
    places: Vec<Place>,
    usage: Usage,
    left: usize,
}

/// Something to tell of a completion.
#[derive(Debug)]
pub(super) enum Told<'a> {
    Echo(&'a Echo),
    Delta(String, &'a [Token]),
    Finished(Finished),
}

impl Teller {
    pub(super) fn new(telling: Telling) -> Self {
        let places = vec![Place::default(); telling.count];
        let left = telling.count;
        Self { telling, places, usage: Usage::default(), left }
    }

    /// What a completion says; nothing where it says nothing.
    fn part(&mut self, index: usize, told: Told<'_>, spelling: &Spelling) -> Option<Choice> {
        let (text, tokens) = match told {
            Told::Echo(Echo { text, tokens }) => (text.clone(), tokens.as_slice()),
            Told::Delta(..) if self.telling.prompt_only => return None,
            Told::Delta(text, tokens) => (text, tokens),
            Told::Finished(finished) => return Some(self.finished(index, finished)),
        };
        let wanted = self.telling.logprobs && !tokens.is_empty();
        let logprobs = self.places.get_mut(index).filter(|_| wanted);
        let logprobs = logprobs.map(|place| place.logprobs(tokens, spelling));
        Some(Choice { text, index, logprobs, ..Choice::default() })
    }

    fn finished(&mut self, index: usize, mut finished: Finished) -> Choice {
        self.left = self.left.saturating_sub(1);
        let mut reason = wire::finish_reason(finished.reason);
        if self.telling.prompt_only {
            finished.usage.completion = 0;
            // It said nothing because nothing was asked for, however its one token would have ended it.
            reason = if finished.blocked_prompt == Some(true) { reason } else { "length" };
        }
        self.usage += finished.usage;
        Choice { index, finish_reason: Some(reason), extras: finished.into(), ..Choice::default() }
    }

    /// The events for something.
    pub(super) fn event(
        &mut self,
        index: usize,
        told: Told<'_>,
        spelling: &Spelling,
        delivery: Delivery,
    ) -> Bytes {
        let Some(choice) = self.part(index, told, spelling) else { return Bytes::new() };
        let last = choice.finish_reason.is_some() && self.left == 0;
        let head = &self.telling.head;
        let mut events = sse::event(&head.with([choice], None)).to_vec();
        if last && delivery.usage {
            events.extend(sse::event(&head.with::<[(); 0]>([], Some(self.usage.into()))));
        }
        if last {
            events.extend(sse::DONE);
        }
        events.into()
    }
}

/// Completions as a whole.
#[derive(Debug)]
pub(super) struct Whole {
    teller: Teller,
    choices: Vec<Choice>,
}

impl Whole {
    pub(super) fn new(telling: Telling) -> Self {
        let empty = || telling.logprobs.then(Logprobs::default);
        let choices = (0..telling.count)
            .map(|index| Choice { index, logprobs: empty(), ..Choice::default() })
            .collect();
        Self { teller: Teller::new(telling), choices }
    }

    /// Adds something.
    pub(super) fn add(&mut self, index: usize, told: Told<'_>, spelling: &Spelling) {
        let Some(part) = self.teller.part(index, told, spelling) else { return };
        let Some(choice) = self.choices.get_mut(index) else { return };
        choice.text.push_str(&part.text);
        if let (Some(all), Some(more)) = (&mut choice.logprobs, part.logprobs) {
            all.extend(more);
        }
        if part.finish_reason.is_some() {
            choice.finish_reason = part.finish_reason;
            choice.extras = part.extras;
        }
    }

    /// The answer.
    pub(super) fn told(&self) -> impl Serialize {
        self.teller.telling.head.with(&self.choices, Some(self.teller.usage.into()))
    }
}
