//! Runs the automaton of denied terms over a text that comes in pieces.

use aho_corasick::automaton::StateID;

use super::{Hit, held::Held};
use crate::detector::patterns::{Term, Terms, is_word};

/// The automaton's place in one text.
#[derive(Debug)]
pub(crate) struct TermSearch {
    state: StateID,
    /// The next character to read starts here.
    at: usize,
    /// How many of the characters read last could still become a term.
    depth: usize,
    /// Terms that end here unless the next character makes them part of a longer word.
    waiting: Vec<Hit>,
}

impl TermSearch {
    /// At the start of a text.
    pub(crate) fn new(terms: &Terms) -> Self {
        Self { state: terms.start(), at: 0, depth: 0, waiting: Vec::new() }
    }

    /// Reads all text that is held and not read yet.
    pub(crate) fn read(&mut self, terms: &Terms, held: &Held, hits: &mut Vec<Hit>) {
        for c in held.slice(self.at..held.end()).chars() {
            if is_word(c) {
                self.waiting.clear();
            }
            hits.append(&mut self.waiting);
            self.state = terms.next(self.state, c);
            self.at += c.len_utf8();
            for term in terms.ending(self.state) {
                self.end_of(term, held, hits);
            }
        }
        if held.is_complete() {
            hits.append(&mut self.waiting);
        }
        self.depth = terms.depth(self.state);
    }

    /// Nothing that is still to be found begins before this position.
    pub(crate) fn safe_point(&self, held: &Held) -> usize {
        if held.is_complete() {
            return self.at;
        }
        let possible = held.back(self.at, self.depth);
        self.waiting.iter().map(|hit| hit.start).fold(possible, usize::min)
    }

    fn end_of(&mut self, term: &Term, held: &Held, hits: &mut Vec<Hit>) {
        let start = held.back(self.at, term.text.chars().count());
        let differs = !term.ignore_case && held.slice(start..self.at) != term.text;
        if differs || term.is_joined_before(held.char_before(start)) {
            return;
        }
        let hit = Hit { start, end: self.at, rule: term.rule };
        if term.minds_what_follows() {
            self.waiting.push(hit);
        } else {
            hits.push(hit);
        }
    }
}
