//! Runs detectors over a text that comes in pieces.
//!
//! For each detector this is the plain left-to-right search: try each position, take the match there or go on to the
//! next position; after a match go on behind it. The one difference is that a try may run out of text and stay open.
//! What is done depends only on the bytes read so far, never on where pieces ended; and nothing that is still to be
//! found begins before the oldest open try.
//!
//! # Cost
//! A position is looked up once in two tables to see which of up to 64 detectors may begin there. A try costs at most
//! its detector's bound, and a detector has one open try at a time.

use std::{ops::Range, sync::Arc};

use super::{
    Hit,
    candidate::{Candidate, Outcome, Reading},
    held::Held,
};
use crate::detector::Detector;

/// A detector at work in a program.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What is looked for.
    pub(crate) detector: Arc<Detector>,
    /// The rule that asks for it: an index into the program's rules.
    pub(crate) rule: usize,
    /// Whether the head alone is the finding: where it blocks, nothing behind it matters any more.
    pub(crate) head_only: bool,
}

impl Entry {
    /// A finding of this detector.
    pub(crate) fn hit(&self, range: Range<usize>) -> Hit {
        Hit { start: range.start, end: range.end, rule: self.rule }
    }
}

/// Up to 64 detectors that are run together. Immutable and shared.
pub(crate) struct Bank {
    entries: Vec<Entry>,
    /// For each byte, the detectors that may begin with it, one bit each.
    may_begin: [u64; 256],
    /// For each byte, the detectors that may not begin after it.
    barred_after: [u64; 256],
}

impl Bank {
    /// As many banks as the detectors need.
    pub(crate) fn of(entries: &[Entry]) -> Vec<Self> {
        entries.chunks(64).map(|entries| Self::new(entries.to_vec())).collect()
    }

    fn new(entries: Vec<Entry>) -> Self {
        let (mut may_begin, mut barred_after) = ([0; 256], [0; 256]);
        for (i, Entry { detector, .. }) in entries.iter().enumerate() {
            for byte in 0..=u8::MAX {
                may_begin[usize::from(byte)] |= u64::from(detector.head.first().has(byte)) << i;
                barred_after[usize::from(byte)] |= u64::from(detector.not_after.has(byte)) << i;
            }
        }
        Self { entries, may_begin, barred_after }
    }

    /// The detectors that may begin at a position that is held.
    fn beginning_at(&self, at: usize, held: &Held) -> u64 {
        let may = held.byte(at).map_or(0, |byte| self.may_begin[usize::from(byte)]);
        let barred = held.byte_before(at).map_or(0, |byte| self.barred_after[usize::from(byte)]);
        may & !barred
    }
}

impl std::fmt::Debug for Bank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.detector.rule)).finish()
    }
}

/// One detector's place in one text.
#[derive(Debug, Default)]
struct Place {
    /// No try begins before this position.
    free_from: usize,
    open: Option<Candidate>,
}

/// One bank's place in one text.
#[derive(Debug)]
pub(crate) struct Search {
    places: Vec<Place>,
    /// The detectors with an open try, one bit each.
    open: u64,
    /// The next position to try for all others.
    at: usize,
}

impl Search {
    /// At the start of a text.
    pub(crate) fn new(bank: &Bank) -> Self {
        Self { places: bank.entries.iter().map(|_| Place::default()).collect(), open: 0, at: 0 }
    }

    /// Reads all text that is held and not read yet.
    pub(crate) fn read(&mut self, bank: &Bank, reading: &mut Reading<'_>) {
        for i in bits(self.open) {
            self.resume(i, bank, reading);
        }
        while self.at < reading.held.end() {
            for i in bits(bank.beginning_at(self.at, reading.held) & !self.open) {
                if self.places[i].free_from <= self.at {
                    self.begin(i, &bank.entries[i], reading, self.at);
                }
            }
            self.at += 1;
        }
    }

    /// Nothing that is still to be found begins before this position.
    pub(crate) fn safe_point(&self) -> usize {
        let open = bits(self.open).filter_map(|i| self.places[i].open.as_ref());
        open.map(Candidate::reports_from).fold(self.at, usize::min)
    }

    /// Goes on with an open try, then with the positions behind it that all others have passed meanwhile.
    fn resume(&mut self, i: usize, bank: &Bank, reading: &mut Reading<'_>) {
        let Some(candidate) = self.places[i].open.take() else { return };
        self.open &= !(1 << i);
        self.settle(i, candidate, &bank.entries[i], reading);
        while self.places[i].open.is_none() && self.places[i].free_from < self.at {
            let at = self.places[i].free_from;
            if bank.beginning_at(at, reading.held) >> i & 1 == 1 {
                self.begin(i, &bank.entries[i], reading, at);
            } else {
                self.places[i].free_from += 1;
            }
        }
    }

    fn begin(&mut self, i: usize, entry: &Entry, reading: &mut Reading<'_>, at: usize) {
        let candidate = Candidate::new(at, &entry.detector.head, reading.held);
        self.settle(i, candidate, entry, reading);
    }

    fn settle(&mut self, i: usize, mut candidate: Candidate, entry: &Entry, reading: &mut Reading<'_>) {
        match candidate.read(entry, reading) {
            Outcome::Decided(free_from) => self.places[i].free_from = free_from,
            Outcome::Open => {
                self.places[i].open = Some(candidate);
                self.open |= 1 << i;
            }
        }
    }
}

/// The positions of the bits that are set, lowest first.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            lowest
        })
    })
}
