//! Finds the first stop string in a text that comes in pieces. Where the pieces are cut changes nothing.

use std::mem;

/// Looks for all stop strings at once, a byte at a time, with one Knuth-Morris-Pratt automaton each: a handful of short
/// strings, so that this is cheaper than anything cleverer, and each automaton's state says how much must be held back.
#[derive(Debug)]
pub(super) struct Matcher {
    patterns: Vec<Pattern>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What is known after a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Text that is part of no stop string; may be empty.
    Text(String),
    /// A stop string is complete: the text before it, and which. Of several that are complete at the same byte, the
    /// longest.
    Met { text: String, stop_string: String },
}

impl Matcher {
    pub(super) fn new(strings: &[String]) -> Self {
        Self { patterns: strings.iter().map(|string| Pattern::new(string)).collect(), held: String::new() }
    }

    /// Takes the next piece. Stop strings that are complete within it count only if `may_stop`.
    pub(super) fn push(&mut self, piece: String, may_stop: bool) -> Pushed {
        if self.patterns.is_empty() {
            return Pushed::Text(piece);
        }
        let new = self.held.len();
        let mut text = mem::take(&mut self.held);
        text.push_str(&piece);
        for (index, &byte) in text.as_bytes().iter().enumerate().skip(new) {
            let Some(pattern) = self.step(byte).filter(|_| may_stop) else { continue };
            let stop_string = pattern.text.clone();
            text.truncate(index + 1 - stop_string.len());
            return Pushed::Met { text, stop_string };
        }
        let hold = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or_default();
        self.held = text.split_off(text.len() - hold);
        Pushed::Text(text)
    }

    /// What was held back, now that nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        mem::take(&mut self.held)
    }

    /// Moves every automaton on; returns the longest pattern that this byte completes.
    fn step(&mut self, byte: u8) -> Option<&Pattern> {
        let mut longest: Option<&Pattern> = None;
        for pattern in &mut self.patterns {
            if pattern.step(byte) && longest.is_none_or(|other| other.text.len() < pattern.text.len()) {
                longest = Some(pattern);
            }
        }
        longest
    }
}

/// One stop string and how much of it the text ends with.
#[derive(Debug)]
struct Pattern {
    text: String,
    /// For each prefix (by its length less one), its longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { text: text.to_owned(), borders: vec![0], matched: 0 };
        // The automaton run over its own pattern, one byte late, visits the borders.
        for &byte in text.as_bytes().iter().skip(1) {
            pattern.step(byte);
            let border = pattern.matched;
            pattern.borders.push(border);
        }
        pattern.matched = 0;
        pattern
    }

    /// Reads a byte; says whether the pattern is complete with it.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes.get(self.matched) != Some(&byte) {
            self.matched = self.borders[self.matched - 1];
        }
        if bytes.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
        let complete = self.matched == bytes.len();
        if complete {
            // For the next byte, and for what must be held: no more than a proper prefix.
            self.matched = self.borders[self.matched - 1];
        }
        complete
    }
}

#[cfg(test)]
mod tests;
