//! Rules that values must keep, each with its words.

use std::{fmt::Display, time::Duration};

/// A rule that a value must keep, and its words: `must be at least 1`.
#[derive(Debug)]
pub struct Rule<T> {
    /// Whether the value keeps the rule.
    pub holds: fn(&T, &[T]) -> bool,
    /// What the rule compares with.
    pub bounds: Vec<T>,
    /// The rule in words, starting with `must`.
    pub words: String,
}

impl<T> Rule<T> {
    pub(super) fn allows(&self, value: &T) -> bool {
        (self.holds)(value, &self.bounds)
    }
}

/// Any value will do.
pub fn any<T>() -> Rule<T> {
    Rule { holds: |_, _| true, bounds: Vec::new(), words: String::new() }
}

/// At least this. (Not a number is at least nothing.)
pub fn at_least<T: PartialOrd + Display>(least: T) -> Rule<T> {
    let words = format!("must be at least {least}");
    Rule { holds: |value, bounds| *value >= bounds[0], bounds: vec![least], words }
}

/// Between these, both included.
pub fn between<T: PartialOrd + Display>(least: T, most: T) -> Rule<T> {
    let words = format!("must be between {least} and {most}");
    Rule {
        holds: |value, bounds| *value >= bounds[0] && *value <= bounds[1],
        bounds: vec![least, most],
        words,
    }
}

/// A text with something in it.
pub fn not_empty() -> Rule<String> {
    Rule {
        holds: |text, _| !text.trim().is_empty(),
        bounds: Vec::new(),
        words: "must not be empty".to_owned(),
    }
}

/// Any duration but zero.
pub fn positive() -> Rule<Duration> {
    Rule { holds: |time, _| !time.is_zero(), bounds: Vec::new(), words: "must be more than zero".to_owned() }
}
