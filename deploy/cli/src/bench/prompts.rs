//! What the requests ask: seeded, each another, of a given length in tokens.

use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::grpc::{Refusal, text::Tokenizer};

/// Common words, most of them one token in most vocabularies.
const WORDS: [&str; 96] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week",
    "company", "system", "program", "question", "work", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job",
    "word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power",
    "hour", "game", "line", "end", "member", "law", "car", "city", "name", "team", "minute", "idea", "body",
    "back", "parent", "face", "level", "office", "door", "health", "person", "art", "war", "history",
    "party", "result", "change", "morning", "reason", "research", "girl", "guy", "moment", "air", "teacher",
    "force", "order", "light", "voice",
];

/// How often a text of the exact length is tried for. Cutting a text at a token border sometimes lets its end merge into
/// other tokens; another text then does better.
const TRIES: u64 = 8;

/// Makes prompts.
#[derive(Clone, Debug)]
pub(crate) struct Prompts {
    /// The same seed makes the same prompts.
    pub(crate) seed: u64,
    /// How long they are, in tokens.
    pub(crate) tokens: usize,
}

impl Prompts {
    /// The text of request `index`, of about the length: each word counts as a token.
    pub(crate) fn words(&self, index: u64) -> String {
        self.draw(index, 0, self.tokens)
    }

    /// The text of request `index`, of exactly the length, or of the nearest that was found.
    ///
    /// # Errors
    /// The tokenizer cannot be asked.
    pub(crate) async fn exact(&self, index: u64, tokenizer: &Tokenizer) -> Result<String, Refusal> {
        let mut nearest: Option<(usize, String)> = None;
        for attempt in 0..TRIES {
            // A word is at least a token, so this is enough to cut from.
            let text = self.draw(index, attempt, self.tokens);
            let ids = tokenizer.encode(&text).await?;
            let text = tokenizer.decode(&ids[..self.tokens.min(ids.len())]).await?;
            let length = tokenizer.encode(&text).await?.len();
            let distance = length.abs_diff(self.tokens);
            if nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
                nearest = Some((distance, text));
            }
            if distance == 0 {
                break;
            }
        }
        Ok(nearest.map(|(_, text)| text).unwrap_or_default())
    }

    /// The ids of request `index`, below the vocabulary's size and none of those that end a text.
    pub(crate) fn ids(&self, index: u64, vocabulary_size: u32, end_ids: &[u32]) -> Vec<u32> {
        let mut rng = self.rng(index, 0);
        let mut ids = Vec::with_capacity(self.tokens);
        while ids.len() < self.tokens {
            let id = rng.random_range(0..vocabulary_size.max(1));
            if !end_ids.contains(&id) || vocabulary_size < 16 {
                ids.push(id);
            }
        }
        ids
    }

    fn draw(&self, index: u64, attempt: u64, words: usize) -> String {
        let mut rng = self.rng(index, attempt);
        let words: Vec<&str> = (0..words).filter_map(|_| WORDS.choose(&mut rng).copied()).collect();
        words.join(" ")
    }

    /// A stream of its own for each request, so that a request asks the same whatever else is sent.
    fn rng(&self, index: u64, attempt: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index * TRIES + attempt);
        rng
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_the_same_for_the_same_seed_and_no_two_ask_the_same() {
        let prompts = Prompts { seed: 1, tokens: 20 };
        assert_eq!(prompts.words(3), prompts.words(3));
        assert_ne!(prompts.words(3), prompts.words(4));
        assert_ne!(prompts.words(3), Prompts { seed: 2, tokens: 20 }.words(3));
        assert_eq!(prompts.words(3).split(' ').count(), 20);
    }

    #[test]
    fn ids_fit_the_vocabulary_and_end_nothing() {
        let ids = Prompts { seed: 1, tokens: 1000 }.ids(0, 20, &[2, 0]);
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| *id < 20 && *id != 2 && *id != 0));
    }
}
