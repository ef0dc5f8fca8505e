//! The text that is not released yet.

use std::ops::Range;

/// The end of a text that comes in pieces, and one character before it. Positions are bytes of the whole text.
#[derive(Debug, Default)]
pub(crate) struct Held {
    text: String,
    /// Where `text` starts in the whole text.
    base: usize,
    /// What before this position may be forgotten.
    needed_from: usize,
    is_complete: bool,
}

impl Held {
    /// Adds the next piece.
    pub(crate) fn push(&mut self, piece: &str) {
        self.compact();
        self.text.push_str(piece);
    }

    /// Says that there is no next piece.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether the whole text has been seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// How long the whole text is so far.
    pub(crate) fn end(&self) -> usize {
        self.base + self.text.len()
    }

    /// The byte at a position, if it is there yet.
    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at - self.base).copied()
    }

    /// The byte before a position, or `None` at the start of the whole text.
    pub(crate) fn byte_before(&self, at: usize) -> Option<u8> {
        at.checked_sub(self.base + 1).and_then(|i| self.text.as_bytes().get(i).copied())
    }

    /// The character before a position, or `None` at the start of the whole text.
    pub(crate) fn char_before(&self, at: usize) -> Option<char> {
        self.slice(self.base..at).chars().next_back()
    }

    /// Where the `count`th character before a position starts.
    pub(crate) fn back(&self, at: usize, count: usize) -> usize {
        let Some(nth) = count.checked_sub(1) else { return at };
        self.slice(self.base..at).char_indices().nth_back(nth).map_or(self.base, |(i, _)| self.base + i)
    }

    /// Whether a character starts at a position (or the text ends there).
    pub(crate) fn is_boundary(&self, at: usize) -> bool {
        self.text.is_char_boundary(at - self.base)
    }

    /// The text between two positions that are held.
    pub(crate) fn slice(&self, range: Range<usize>) -> &str {
        &self.text[range.start - self.base..range.end - self.base]
    }

    /// Lets go of what stands before a position, but for the one character right before it.
    pub(crate) fn forget_before(&mut self, at: usize) {
        self.needed_from = self.back(at, 1);
    }

    /// Moves the text only when at least half of it is not needed, so that each byte is moved a fixed number of times.
    fn compact(&mut self) {
        let unneeded = self.needed_from.saturating_sub(self.base);
        if unneeded * 2 > self.text.len() {
            self.text.drain(..unneeded);
            self.base += unneeded;
        }
    }
}
