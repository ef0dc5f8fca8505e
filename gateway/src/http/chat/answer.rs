//! A chat completion as it is told: as a whole, or event by event.

use bytes::Bytes;
use serde::Serialize;

use super::calls::{Reader, Said};
use crate::{
    answer::{Event, Finished, Token, Usage},
    http::{
        options::Delivery,
        spelling::{Spelling, TokenLogprob},
        sse,
        wire::{self, Extras, Head},
    },
};

/// What all answers to one request share.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) head: Head,
    /// Reads calls; `None` where there can be none. One for each answer.
    pub(super) readers: Vec<Option<Reader>>,
    /// Whether log-probabilities were asked for.
    pub(super) logprobs: bool,
}

/// Something that was said in one of the answers.
#[derive(Debug)]
enum Part {
    Text(String),
    Call(ToolCall),
}

#[derive(Clone, Debug, Serialize)]
struct ToolCall {
    /// In an event only: which call of the answer this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Clone, Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

#[derive(Clone, Debug, Serialize)]
struct Logprobs {
    content: Vec<TokenLogprob>,
    refusal: Option<()>,
}

/// One of the answers, so far.
#[derive(Debug, Default)]
struct Choice {
    reader: Option<Reader>,
    /// The names of its calls begin with this.
    prefix: String,
    calls: usize,
}

impl Choice {
    fn new(reader: Option<Reader>, head: &Head, index: usize) -> Self {
        let id = head.id.rsplit('-').next().unwrap_or_default();
        let prefix = if index == 0 { id.to_owned() } else { format!("{id}_{index}") };
        Self { reader, prefix, calls: 0 }
    }

    /// One for each of the readers.
    fn all(readers: Vec<Option<Reader>>, head: &Head) -> Vec<Self> {
        readers.into_iter().enumerate().map(|(index, reader)| Self::new(reader, head, index)).collect()
    }

    /// What is clear after a piece of text.
    fn push(&mut self, text: String) -> Vec<Part> {
        match &mut self.reader {
            None if text.is_empty() => Vec::new(),
            None => vec![Part::Text(text)],
            Some(reader) => {
                let said = reader.push(&text);
                self.parts(said)
            }
        }
    }

    fn finish(&mut self) -> Vec<Part> {
        let said = self.reader.as_mut().map(Reader::finish).unwrap_or_default();
        self.parts(said)
    }

    fn parts(&mut self, said: Vec<Said>) -> Vec<Part> {
        let mut part = |said: Said| match said {
            Said::Text(text) => Part::Text(text),
            Said::Call { name, arguments } => {
                let index = self.calls;
                self.calls += 1;
                Part::Call(ToolCall {
                    index: Some(index),
                    id: format!("call_{}_{index}", self.prefix),
                    r#type: "function",
                    function: Function { name, arguments },
                })
            }
        };
        said.into_iter().map(&mut part).collect()
    }

    fn reason(&self, finished: &Finished) -> &'static str {
        let reason = wire::finish_reason(finished.reason);
        if self.calls > 0 && reason == "stop" { "tool_calls" } else { reason }
    }
}

/// Tells an answer event by event.
#[derive(Debug)]
pub(super) struct Events {
    head: Head,
    choices: Vec<Choice>,
    logprobs: bool,
    delivery: Delivery,
    usage: Usage,
    left: usize,
}

#[derive(Serialize)]
struct Chunk<'a> {
    index: usize,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    extras: Extras,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
}

impl Events {
    pub(super) fn new(telling: Telling, delivery: Delivery) -> Self {
        let Telling { head, readers, logprobs } = telling;
        let left = readers.len();
        let choices = Choice::all(readers, &head);
        Self { head, choices, logprobs, delivery, usage: Usage::default(), left }
    }

    /// Says who speaks.
    pub(super) fn begin(&self) -> Bytes {
        let delta = || Delta { role: Some("assistant"), content: Some(""), tool_calls: None };
        (0..self.choices.len())
            .map(|index| self.chunk(index, delta(), None))
            .collect::<Vec<_>>()
            .concat()
            .into()
    }

    /// The events for what happened; `spelling` knows its tokens.
    pub(super) fn on(&mut self, event: Event, spelling: &Spelling) -> Bytes {
        let mut told = Vec::new();
        match event {
            Event::Delta { index, text, tokens } => {
                let index = index as usize;
                let Some(choice) = self.choices.get_mut(index) else { return Bytes::new() };
                let parts = choice.push(text);
                let logprobs = self.logprobs.then(|| content(&tokens, spelling)).flatten();
                self.tell(index, parts, logprobs, &mut told);
            }
            Event::Finished(finished) => self.finished(finished, &mut told),
        }
        told.into()
    }

    fn tell(&self, index: usize, parts: Vec<Part>, mut logprobs: Option<Logprobs>, told: &mut Vec<u8>) {
        for part in parts {
            let delta = match &part {
                Part::Text(text) => Delta { content: Some(text.as_str()), ..Delta::default() },
                Part::Call(call) => Delta { tool_calls: Some([call.clone()]), ..Delta::default() },
            };
            told.extend(self.chunk(index, delta, logprobs.take()));
        }
        if logprobs.is_some() {
            told.extend(self.chunk(index, Delta { content: Some(""), ..Delta::default() }, logprobs));
        }
    }

    fn finished(&mut self, finished: Finished, told: &mut Vec<u8>) {
        let index = finished.index as usize;
        let Some(choice) = self.choices.get_mut(index) else { return };
        let parts = choice.finish();
        let finish_reason = Some(choice.reason(&finished));
        self.tell(index, parts, None, told);
        self.usage += finished.usage;
        let (delta, extras) = (Delta::default(), Extras::from(finished));
        let last = Chunk { index, delta, logprobs: None, finish_reason, extras };
        told.extend(sse::event(&self.head.with([last], None)));
        self.left -= 1;
        if self.left == 0 {
            if self.delivery.usage {
                told.extend(sse::event(&self.head.with::<[(); 0]>([], Some(self.usage.into()))));
            }
            told.extend(sse::DONE);
        }
    }

    fn chunk(&self, index: usize, delta: Delta<'_>, logprobs: Option<Logprobs>) -> Bytes {
        let chunk = Chunk { index, delta, logprobs, finish_reason: None, extras: Extras::default() };
        sse::event(&self.head.with([chunk], None))
    }
}

fn content(tokens: &[Token], spelling: &Spelling) -> Option<Logprobs> {
    let content = spelling.content(tokens);
    (!content.is_empty()).then_some(Logprobs { content, refusal: None })
}

/// Tells an answer as a whole.
#[derive(Debug)]
pub(super) struct Whole {
    head: Head,
    choices: Vec<(Choice, Told)>,
    logprobs: bool,
    usage: Usage,
}

#[derive(Debug, Default, Serialize)]
struct Told {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    extras: Extras,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

impl Default for Message {
    fn default() -> Self {
        Self { role: "assistant", content: None, refusal: None, tool_calls: Vec::new() }
    }
}

impl Whole {
    pub(super) fn new(telling: Telling) -> Self {
        let Telling { head, readers, logprobs } = telling;
        let told = |index| {
            let logprobs = logprobs.then(|| Logprobs { content: Vec::new(), refusal: None });
            Told { index, logprobs, ..Told::default() }
        };
        let choices = Choice::all(readers, &head).into_iter().enumerate();
        let choices = choices.map(|(index, choice)| (choice, told(index))).collect();
        Self { head, choices, logprobs, usage: Usage::default() }
    }

    /// Adds what happened; `spelling` knows its tokens.
    pub(super) fn on(&mut self, event: Event, spelling: &Spelling) {
        let index = event.index() as usize;
        let Some((choice, told)) = self.choices.get_mut(index) else { return };
        match event {
            Event::Delta { text, tokens, .. } => {
                told.message.add(choice.push(text));
                if let Some(logprobs) = told.logprobs.as_mut().filter(|_| self.logprobs) {
                    logprobs.content.extend(spelling.content(&tokens));
                }
            }
            Event::Finished(finished) => {
                told.message.add(choice.finish());
                told.finish_reason = Some(choice.reason(&finished));
                if told.message.tool_calls.is_empty() {
                    told.message.content.get_or_insert_default();
                }
                self.usage += finished.usage;
                told.extras = finished.into();
            }
        }
    }

    /// The answer.
    pub(super) fn told(&self) -> impl Serialize {
        let choices: Vec<&Told> = self.choices.iter().map(|(_, told)| told).collect();
        self.head.with(choices, Some(self.usage.into()))
    }
}

impl Message {
    fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Text(text) => self.content.get_or_insert_default().push_str(&text),
                Part::Call(call) => self.tool_calls.push(ToolCall { index: None, ..call }),
            }
        }
    }
}
