//! One try of one detector at one position. It reads byte by byte and may run out of text anywhere: then it stays
//! open, and goes on with the next piece as if nothing had been in between.

use std::ops::Range;

use regex_automata::util::primitives::StateID;

use super::{Hit, held::Held, search::Entry};
use crate::detector::{Detector, Expression, Reach, Seen};

/// A try that began at a position.
#[derive(Debug)]
pub(crate) struct Candidate {
    start: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(Head),
    Tail(Tail),
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It needs more text.
    Open,
    /// It is decided. The next try of the same detector may begin here.
    Decided(usize),
}

/// The text as far as it is known, and where findings go.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) held: &'a Held,
    /// How many bytes of a tail are held before they become a finding of their own.
    pub(crate) longest_tail: usize,
    pub(crate) hits: &'a mut Vec<Hit>,
}

impl Candidate {
    /// A try at a position that is held.
    pub(crate) fn new(start: usize, head: &Expression, held: &Held) -> Self {
        let state = head.start(held.byte_before(start));
        Self { start, stage: Stage::Head(Head { start, at: start, state, matched: None }) }
    }

    /// Where the earliest finding starts that this try can still report.
    pub(crate) fn reports_from(&self) -> usize {
        match &self.stage {
            Stage::Head(_) => self.start,
            Stage::Tail(tail) => tail.from,
        }
    }

    /// Reads on until it is decided or the text ends.
    pub(crate) fn read(&mut self, entry: &Entry, reading: &mut Reading<'_>) -> Outcome {
        if let Stage::Head(head) = &mut self.stage {
            let detector = &*entry.detector;
            let Some(matched) = head.read(detector, reading.held) else { return Outcome::Open };
            let Some(found) = matched.and_then(|end| accept(detector, self.start..end, reading.held)) else {
                return Outcome::Decided(self.start + 1);
            };
            match (&detector.reach, entry.head_only) {
                (Reach::Head, _) | (_, true) => {
                    reading.hits.push(entry.hit(found.clone()));
                    return Outcome::Decided(found.end);
                }
                (reach, false) => self.stage = Stage::Tail(Tail::new(&found, reach)),
            }
        }
        let Stage::Tail(tail) = &mut self.stage else { return Outcome::Open };
        tail.read(entry, reading)
    }
}

/// The part of a head's match that is a finding, if it is one.
fn accept(detector: &Detector, matched: Range<usize>, held: &Held) -> Option<Range<usize>> {
    let next = held.byte(matched.end);
    if next.is_some_and(|byte| detector.not_before.has(byte)) {
        return None;
    }
    let part = (detector.check)(&Seen { text: held.slice(matched.clone()), next })?;
    Some(matched.start + part.start..matched.start + part.end)
}

/// Reads a head.
#[derive(Debug)]
struct Head {
    start: usize,
    at: usize,
    state: StateID,
    /// Where the best match so far ends.
    matched: Option<usize>,
}

impl Head {
    /// Where the match ends, if there is one; the outer `None` asks for more text.
    fn read(&mut self, detector: &Detector, held: &Held) -> Option<Option<usize>> {
        // A match shows one byte after its end, so one byte more than the bound is read.
        while self.at <= self.start + detector.bound {
            let Some(byte) = held.byte(self.at) else {
                return held.is_complete().then(|| self.finish(&detector.head));
            };
            self.state = detector.head.next(self.state, byte);
            if detector.head.is_special(self.state) {
                if detector.head.is_dead(self.state) {
                    break;
                }
                if detector.head.is_match(self.state) {
                    self.matched = Some(self.at);
                }
            }
            self.at += 1;
        }
        Some(self.matched)
    }

    fn finish(&self, head: &Expression) -> Option<usize> {
        if head.is_match(head.finish(self.state)) { Some(self.at) } else { self.matched }
    }
}

/// Reads what follows a head. What is longer than the window may hold becomes several findings that touch: all of it
/// is found, however long it is.
#[derive(Debug)]
struct Tail {
    /// Where the finding that is being read starts.
    from: usize,
    at: usize,
    /// Where the search for the end is.
    state: Option<StateID>,
}

impl Tail {
    fn new(found: &Range<usize>, reach: &Reach) -> Self {
        let state = match reach {
            Reach::Until(end) => Some(end.start(None)),
            Reach::Head | Reach::While(_) => None,
        };
        Self { from: found.start, at: found.end, state }
    }

    fn read(&mut self, entry: &Entry, reading: &mut Reading<'_>) -> Outcome {
        while let Some(byte) = reading.held.byte(self.at) {
            if self.ends_before(byte, &entry.detector.reach) {
                reading.hits.push(entry.hit(self.from..self.at));
                return Outcome::Decided(self.at);
            }
            if self.at - self.from >= reading.longest_tail && reading.held.is_boundary(self.at) {
                reading.hits.push(entry.hit(self.from..self.at));
                self.from = self.at;
            }
            self.at += 1;
        }
        if !reading.held.is_complete() {
            return Outcome::Open;
        }
        reading.hits.push(entry.hit(self.from..self.at));
        Outcome::Decided(self.at)
    }

    /// Whether the tail ended before this byte.
    fn ends_before(&mut self, byte: u8, reach: &Reach) -> bool {
        match (reach, self.state) {
            (Reach::While(set), _) => !set.has(byte),
            (Reach::Until(end), Some(state)) => {
                let state = end.next(state, byte);
                self.state = Some(state);
                end.is_match(state)
            }
            (Reach::Head, _) | (Reach::Until(_), None) => true,
        }
    }
}
