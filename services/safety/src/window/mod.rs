//! The window: text goes in as it comes, and comes out as soon as every detector has finished with it.
//!
//! Map: `held` (the text that is not released yet), `search` and `candidate` (detectors over pieces), `terms` (denied
//! terms over pieces), `release` (which text goes out, and as what).
//!
//! # Why the outcome does not depend on the cuts
//! A search is a fold over bytes: what it has found after some bytes, and the *safe point* before which it will find
//! nothing more, are functions of those bytes. What is released up to the smallest safe point is a function of the
//! findings that start before it. So is everything that has been released after a whole text, whatever its pieces
//! were, and a text in one piece is no special case.
//!
//! # What is bounded
//! A search holds no more than its detector's bound or the longest tail; time is proportional to the text.

mod candidate;
mod held;
mod release;
pub(crate) mod search;
mod terms;

use std::sync::Arc;

use self::{candidate::Reading, held::Held, release::Release, search::Search, terms::TermSearch};
use crate::{program::Program, verdict::Verdict};

/// Something that was found, before anything is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Where it starts, in bytes of the whole text.
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
    /// The rule that asked for it: an index into the program's rules.
    pub(crate) rule: usize,
}

/// One text on its way through a policy.
#[derive(Debug)]
pub struct Window {
    program: Arc<Program>,
    held: Held,
    searches: Vec<Search>,
    terms: Option<TermSearch>,
    hits: Vec<Hit>,
    release: Release,
}

impl Window {
    /// Before any text.
    pub fn new(program: Arc<Program>) -> Self {
        Self {
            searches: program.banks.iter().map(Search::new).collect(),
            terms: program.terms.as_ref().map(TermSearch::new),
            release: Release::default(),
            held: Held::default(),
            hits: Vec::new(),
            program,
        }
    }

    /// Adds the next piece, which may be empty. After a block nothing more comes out.
    pub fn push(&mut self, piece: &str) -> Verdict {
        if self.release.is_blocked() {
            return Verdict::default();
        }
        self.held.push(piece);
        self.advance()
    }

    /// Ends the text: whatever is still held is decided.
    pub fn finish(&mut self) -> Verdict {
        if self.release.is_blocked() {
            return Verdict::default();
        }
        self.held.complete();
        self.advance()
    }

    /// How many bytes have come in so far.
    pub fn taken(&self) -> usize {
        self.held.end()
    }

    /// How many bytes have come in and are not decided yet.
    pub fn holding(&self) -> usize {
        self.held.end().saturating_sub(self.release.decided_to())
    }

    fn advance(&mut self) -> Verdict {
        let longest_tail = self.program.max_hold_bytes;
        let mut reading = Reading { held: &self.held, longest_tail, hits: &mut self.hits };
        for (search, bank) in self.searches.iter_mut().zip(&self.program.banks) {
            search.read(bank, &mut reading);
        }
        let mut safe = self.searches.iter().map(Search::safe_point).fold(self.held.end(), usize::min);
        if let (Some(search), Some(terms)) = (&mut self.terms, &self.program.terms) {
            search.read(terms, &self.held, &mut self.hits);
            safe = safe.min(search.safe_point(&self.held));
        }
        for hit in self.hits.drain(..) {
            if !self.program.rules[hit.rule].is_excepted(self.held.slice(hit.start..hit.end)) {
                self.release.add(hit, self.program.rules[hit.rule].rule.action);
            }
        }
        let verdict = self.release.up_to(safe, &self.held, &self.program);
        self.held.forget_before(safe);
        verdict
    }
}

/// Screens a whole text at once.
pub fn screen(program: &Arc<Program>, text: &str) -> Verdict {
    let mut window = Window::new(Arc::clone(program));
    let mut verdict = window.push(text);
    verdict.append(window.finish());
    verdict
}

#[cfg(test)]
mod tests;
