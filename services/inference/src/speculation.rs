//! Guesses of what comes next in an answer: what followed the same tokens before, in prompt or answer (prompt lookup; "Inference
//! with Reference", Yang et al. 2023, arXiv 2304.04487).
//!
//! The model checks a guess in one step: each of its rows says what comes after it, and what stands behind a wrong token was
//! for nothing. Every token is chosen from the logits, and at the random number, that it would have had alone. So answers are
//! the same with guesses and without, as far as a row has the same logits alone and among others (our kernels for CPUs give it
//! the same bits); where the guesses are right, they come in fewer steps.

use weft_runtime::config::{FromConfig, Section, between};

/// `[speculation]`: whether there are guesses, and how far they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// The most tokens that are guessed for a sequence in a step; 0: there are no guesses.
    pub max_tokens: usize,
    /// How many tokens must have stood together before.
    pub least_match: usize,
    /// Guesses are made while at most so many sequences decode: with more, a step's rows cost more than they bring.
    pub max_sequences: usize,
}

impl Default for Speculation {
    /// None.
    fn default() -> Self {
        Self { max_tokens: 0, least_match: 3, max_sequences: 8 }
    }
}

impl FromConfig for Speculation {
    fn from_config(section: &mut Section<'_>) -> Self {
        let none = Self::default();
        Self {
            max_tokens: section.value("max_tokens", none.max_tokens, between(0, 32)),
            least_match: section.value("least_match", none.least_match, between(1, 16)),
            max_sequences: section.value("max_sequences", none.max_sequences, between(1, 4096)),
        }
    }
}

/// What is guessed of one sequence, and how well that went.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    tokens: Vec<u32>,
    /// The most tokens of the next guess: one more than were right the last time.
    reach: usize,
}

impl Default for Draft {
    fn default() -> Self {
        Self { tokens: Vec::new(), reach: usize::MAX }
    }
}

impl Draft {
    /// The guess at hand.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Guesses what follows `said`, at most `room` tokens.
    pub(crate) fn guess(&mut self, said: &[u32], speculation: &Speculation, room: usize) {
        let most = speculation.max_tokens.min(self.reach).min(room);
        self.tokens.clear();
        self.tokens.extend_from_slice(followers(said, speculation.least_match, most));
    }

    /// Forgets the guess.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
    }

    /// Notes that so many of its first tokens were right, and forgets it.
    pub(crate) fn judge(&mut self, right: usize) {
        if !self.tokens.is_empty() {
            self.reach = right + 1;
        }
        self.clear();
    }
}

/// At most `most` tokens that followed where the last `matching` tokens stood before, the last time.
fn followers(said: &[u32], matching: usize, most: usize) -> &[u32] {
    let end = said.len();
    if most == 0 || matching == 0 || end <= matching {
        return &[];
    }
    let last = &said[end - matching..];
    let before = said[..end - 1].windows(matching).rposition(|window| window == last);
    before.map_or(&[], |at| &said[at + matching..end.min(at + matching + most)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECULATION: Speculation = Speculation { max_tokens: 4, least_match: 2, max_sequences: 1 };

    #[test]
    fn what_followed_the_last_time_is_guessed() {
        assert_eq!(followers(&[1, 2, 3, 1, 2, 4, 5, 1, 2], 2, 3), [4, 5, 1]);
        assert_eq!(followers(&[1, 2, 3, 1, 2], 2, 9), [3, 1, 2], "to where it stands now, and no further");
        assert_eq!(followers(&[7, 7, 7, 7], 2, 9), [7], "it may reach into itself");
    }

    #[test]
    fn nothing_is_guessed_of_what_never_was() {
        let guesses: [(&[u32], _, _); 5] =
            [(&[1, 2, 3, 4], 2, 3), (&[1, 2], 2, 3), (&[], 1, 3), (&[5, 5], 0, 3), (&[5, 5, 5], 1, 0)];
        for (said, matching, most) in guesses {
            assert!(followers(said, matching, most).is_empty(), "{said:?} {matching} {most}");
        }
    }

    #[test]
    fn a_guess_is_as_long_as_the_last_one_was_right_and_one_more() {
        let said = [1, 2, 3, 4, 5, 6, 1, 2];
        let mut draft = Draft::default();
        let mut guess = |right: usize| {
            draft.guess(&said, &SPECULATION, usize::MAX);
            let length = draft.tokens().len();
            draft.judge(right);
            length
        };
        assert_eq!([guess(0), guess(1), guess(2), guess(3), guess(0), guess(0)], [4, 1, 2, 3, 4, 1]);
    }

    #[test]
    fn where_there_was_no_guess_nothing_is_learnt() {
        let mut draft = Draft::default();
        draft.guess(&[1, 2, 3], &SPECULATION, usize::MAX);
        draft.judge(0);
        draft.guess(&[1, 2, 3, 4, 5, 1, 2], &SPECULATION, 3);
        assert_eq!(draft.tokens(), [3, 4, 5], "no more than there is room for");
    }
}
