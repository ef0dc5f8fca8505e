//! Tool calls in what the model says.
//!
//! Models mark a call in the way of their training: between `<tool_call>` and `</tool_call>` (Hermes, Qwen, SmolLM2) or as
//! an answer that is one JSON object (Llama 3). What looks like a call is held back until it is one or is none; one that
//! does not name a tool that was offered is text like any other. Where the model was made to call a tool, the whole answer
//! is the call.

use std::mem;

use serde_json::Value;

use crate::request::tool_choice::{CLOSE, OPEN};

/// Reads calls out of an answer that comes in pieces.
#[derive(Debug)]
pub(super) struct Reader {
    /// The names of the tools.
    tools: Vec<String>,
    held: String,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space was said.
    Beginning,
    /// Text.
    Text,
    /// After an opening mark.
    Marked,
    /// Nothing but white space was said after a call.
    Between,
    /// The answer begins as JSON does, or must be a call: it is read when it is whole.
    Whole,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Text(String),
    Call {
        name: String,
        /// As JSON text.
        arguments: String,
    },
}

impl Reader {
    /// Reads calls that the model makes or not.
    pub(super) fn marked(tools: Vec<String>) -> Self {
        Self { tools, held: String::new(), state: State::Beginning }
    }

    /// Reads the call that the model was made to make.
    pub(super) fn forced(tools: Vec<String>) -> Self {
        Self { tools, held: String::new(), state: State::Whole }
    }

    /// Takes the next piece; says what is clear by now.
    pub(super) fn push(&mut self, piece: &str) -> Vec<Said> {
        self.held.push_str(piece);
        let mut said = Vec::new();
        while let Some(more) = self.step() {
            said.extend(more);
        }
        said
    }

    /// Says what was held back, now that nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<Said> {
        let held = mem::take(&mut self.held);
        match self.state {
            State::Whole => self.calls(&held).unwrap_or_else(|| text(held)),
            State::Marked => self.calls(&held).unwrap_or_else(|| text(format!("{OPEN}{held}"))),
            State::Between if held.trim().is_empty() => Vec::new(),
            State::Beginning | State::Between | State::Text => text(held),
        }
    }

    /// Reads on by one state; `None` where more must come first.
    fn step(&mut self) -> Option<Vec<Said>> {
        match self.state {
            State::Whole => None,
            State::Beginning => {
                let first = self.held.trim_start().chars().next()?;
                self.state = if first == '{' { State::Whole } else { State::Text };
                Some(Vec::new())
            }
            State::Between => {
                let next = self.held.trim_start();
                // What may become another mark is waited for with the white space before it.
                let open = !next.starts_with(OPEN) && OPEN.starts_with(next);
                (!open).then(|| {
                    self.state = State::Text;
                    Vec::new()
                })
            }
            State::Text => self.text(),
            State::Marked => {
                let end = self.held.find(CLOSE)?;
                let rest = self.held.split_off(end + CLOSE.len());
                let marked = mem::replace(&mut self.held, rest);
                let calls = self.calls(&marked[..end]);
                self.state = if calls.is_some() { State::Between } else { State::Text };
                Some(calls.unwrap_or_else(|| text(format!("{OPEN}{marked}"))))
            }
        }
    }

    fn text(&mut self) -> Option<Vec<Said>> {
        if let Some(start) = self.held.find(OPEN) {
            let marked = self.held.split_off(start + OPEN.len());
            let mut before = mem::replace(&mut self.held, marked);
            before.truncate(start);
            self.state = State::Marked;
            // White space around a call is layout.
            return Some(if before.trim().is_empty() { Vec::new() } else { text(before) });
        }
        let clear = self.held.len() - open_end(&self.held);
        let open = self.held.split_off(clear);
        let clear = mem::replace(&mut self.held, open);
        (!clear.is_empty()).then(|| text(clear))
    }

    /// The calls in a JSON text: one, or a list.
    fn calls(&self, json: &str) -> Option<Vec<Said>> {
        match serde_json::from_str(json.trim()).ok()? {
            Value::Array(calls) if !calls.is_empty() => calls.iter().map(|call| self.call(call)).collect(),
            call => Some(vec![self.call(&call)?]),
        }
    }

    fn call(&self, call: &Value) -> Option<Said> {
        let name = call.get("name")?.as_str()?;
        let arguments = call.get("arguments").or_else(|| call.get("parameters"))?;
        let arguments = match arguments {
            Value::String(json) => json.clone(),
            Value::Object(_) => arguments.to_string(),
            _ => return None,
        };
        self.tools.iter().any(|tool| tool == name).then(|| Said::Call { name: name.to_owned(), arguments })
    }
}

fn text(text: String) -> Vec<Said> {
    if text.is_empty() { Vec::new() } else { vec![Said::Text(text)] }
}

/// How many bytes at the end may be the beginning of an opening mark.
fn open_end(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|length| text.ends_with(&OPEN[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;

    /// What is read of an answer, texts that follow each other joined.
    fn read(answer: &str, cut: usize) -> Vec<Said> {
        let mut reader = Reader::marked(vec!["weather".to_owned()]);
        let letters: Vec<char> = answer.chars().collect();
        let pieces = letters.chunks(cut).map(|piece| piece.iter().collect::<String>());
        let mut said: Vec<Said> = pieces.flat_map(|piece| reader.push(&piece)).collect();
        said.extend(reader.finish());
        let mut joined: Vec<Said> = Vec::new();
        for one in said {
            match (joined.last_mut(), one) {
                (Some(Said::Text(before)), Said::Text(more)) => before.push_str(&more),
                (_, one) => joined.push(one),
            }
        }
        joined
    }

    fn call() -> Said {
        Said::Call { name: "weather".to_owned(), arguments: r#"{"city":"Oslo"}"#.to_owned() }
    }

    fn said(text: &str) -> Said {
        Said::Text(text.to_owned())
    }

    #[test]
    fn calls_are_read_wherever_the_pieces_are_cut() {
        for cut in 1..20 {
            let marked = format!("Let me see.\n<tool_call>\n{CALL}\n</tool_call>");
            assert_eq!(read(&marked, cut), [said("Let me see.\n"), call()]);
            let two = format!("<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\n");
            assert_eq!(read(&two, cut), [call(), call()]);
            let and = format!("<tool_call>{CALL}</tool_call>\n<b>");
            assert_eq!(read(&and, cut), [call(), said("\n<b>")]);
            assert_eq!(read(&format!("<tool_call>[{CALL}, {CALL}]</tool_call>"), cut), [call(), call()]);
            assert_eq!(read(&format!(" {}", CALL.replace("arguments", "parameters")), cut), [call()]);
            assert_eq!(read(&format!("<tool_call>{CALL}"), cut), [call()], "cut off after the call");
        }
    }

    #[test]
    fn what_is_no_call_is_text_to_the_letter() {
        let cases = [
            "a < b, and <tool> is a word <tool_cal",
            "<tool_call>not json</tool_call> and more",
            r#"<tool_call>{"name": "launch", "arguments": {}}</tool_call>"#,
            r#"{"name": "Ann", "age": 7}"#,
            "<tool_call>{\"name\": \"wea",
            "  ",
        ];
        for text in cases {
            for cut in 1..12 {
                assert_eq!(read(text, cut), [said(text)], "{text} in pieces of {cut}");
            }
        }
    }
}
