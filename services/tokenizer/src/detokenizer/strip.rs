//! A character stripped from both ends of a text that comes in pieces.

/// Strips up to `start` of a character from the start, and up to `stop` from the end.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    character: char,
    /// How many the start may still lose.
    start: usize,
    stop: usize,
    /// How many were last and are held back: the end loses them.
    held: usize,
}

impl Strip {
    pub(super) fn new(character: char, start: usize, stop: usize) -> Self {
        Self { character, start, stop, held: 0 }
    }

    /// Takes the next piece and gives what is not stripped. What is held back at the end is.
    pub(super) fn push(&mut self, piece: &str) -> String {
        let piece = self.strip_start(piece);
        let mut text = String::with_capacity(piece.len() + self.held);
        text.extend(std::iter::repeat_n(self.character, self.held));
        text.push_str(piece);
        let last = text.chars().rev().take_while(|character| *character == self.character).count();
        self.held = last.min(self.stop);
        text.truncate(text.len() - self.held * self.character.len_utf8());
        text
    }

    fn strip_start<'a>(&mut self, mut piece: &'a str) -> &'a str {
        while self.start > 0 && !piece.is_empty() {
            match piece.strip_prefix(self.character) {
                Some(rest) => {
                    self.start -= 1;
                    piece = rest;
                }
                None => self.start = 0,
            }
        }
        piece
    }
}
