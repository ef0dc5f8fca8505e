//! How tokens are spelled: log-probabilities name them by their text.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Serialize;

use crate::{answer::Token, error::Error, pipeline::Pipeline, request::Scope};

/// The spellings of the tokens of one answer, as far as they were asked for.
#[derive(Debug)]
pub(super) struct Spelling {
    pipeline: Arc<Pipeline>,
    scope: Scope,
    known: HashMap<u32, Vec<u8>>,
}

impl Spelling {
    pub(super) fn new(pipeline: Arc<Pipeline>, scope: Scope) -> Self {
        Self { pipeline, scope, known: HashMap::new() }
    }

    /// Asks the tokenizer for what is not known of these tokens, the likeliest beside them included.
    pub(super) async fn learn(&mut self, tokens: &[Token]) -> Result<(), Error> {
        let ids = tokens
            .iter()
            .flat_map(|token| token.top.iter().map(|(id, _)| *id).chain([token.id]))
            .filter(|id| !self.known.contains_key(id));
        let unknown: Vec<u32> = ids.collect::<HashSet<_>>().into_iter().collect();
        if !unknown.is_empty() {
            let spelled = self.pipeline.spell(&self.scope, unknown.clone()).await?;
            self.known.extend(unknown.into_iter().zip(spelled));
        }
        Ok(())
    }

    /// The bytes of a token; none of one that was not asked for.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.known.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The text of a token; a part of a character reads as U+FFFD.
    pub(super) fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.bytes(id)).into_owned()
    }

    /// Tokens as chat completions report them.
    pub(super) fn content(&self, tokens: &[Token]) -> Vec<TokenLogprob> {
        let likely = |(id, logprob): &(u32, f32)| Likely {
            token: self.text(*id),
            logprob: *logprob,
            bytes: self.bytes(*id).to_vec(),
        };
        let told = |token: &Token| {
            Some(TokenLogprob {
                token: likely(&(token.id, token.logprob?)),
                top_logprobs: token.top.iter().map(likely).collect(),
            })
        };
        tokens.iter().filter_map(told).collect()
    }
}

/// A token of an answer and what might have stood there.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TokenLogprob {
    #[serde(flatten)]
    token: Likely,
    top_logprobs: Vec<Likely>,
}

#[derive(Clone, Debug, Serialize)]
struct Likely {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}
