//! The bytes of every token, from a folder's `tokenizer.json`.
//!
//! The only place of this service that looks at text: a grammar is about bytes, and a mask is about ids.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use llguidance::{
    ParserFactory,
    api::ParserLimits,
    earley::SlicedBiasComputer,
    token_bytes_from_tokenizer_json,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use sha2::{Digest as _, Sha256};

/// States of a grammar's lexer, at 1 to 2 kB each. Common schemas need some hundreds.
pub(super) const MAX_LEXER_STATES: usize = 30_000;

/// What the vocabulary is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model's folder.
    pub folder: PathBuf,
    /// SHA-256 of its `tokenizer.json` when the model was loaded; empty if it had none.
    pub fingerprint: String,
    /// Logits per position.
    pub vocabulary_size: usize,
    /// Ids that end a generation.
    pub end_token_ids: Vec<u32>,
}

/// Why a folder's vocabulary cannot guide anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// There is no file.
    #[error("the model's folder has no usable tokenizer.json, which a constraint needs: {0}")]
    Missing(String),
    /// It is not the file that was there when the model was loaded.
    #[error("the model folder's tokenizer.json has changed since the model was loaded")]
    Changed,
    /// The bytes of its tokens cannot be told.
    #[error("the bytes of the tokens in tokenizer.json cannot be told, which a constraint needs: {0}")]
    Unreadable(String),
}

/// Reads the folder's vocabulary and makes what compiles grammars over it.
///
/// # Errors
/// The file is missing, another one, or of a kind whose tokens are not bytes.
pub(super) fn load(source: &Source) -> Result<ParserFactory, VocabularyError> {
    let file = source.folder.join("tokenizer.json");
    let text = std::fs::read(file).map_err(|error| VocabularyError::Missing(error.to_string()))?;
    if hex::encode(Sha256::digest(&text)) != source.fingerprint {
        return Err(VocabularyError::Changed);
    }
    // The library asserts what it believes of a tokenizer; a file that is otherwise must not cost more than itself.
    catch_unwind(AssertUnwindSafe(|| factory(&text, source)))
        .unwrap_or_else(|_| Err(VocabularyError::Unreadable("its tokens are of an unknown form".to_owned())))
}

fn factory(text: &[u8], source: &Source) -> Result<ParserFactory, VocabularyError> {
    let unreadable = |error: &dyn ToString| VocabularyError::Unreadable(error.to_string());
    let json = serde_json::from_slice(text).map_err(|error| unreadable(&error))?;
    let mut words = token_bytes_from_tokenizer_json(&json).map_err(|error| unreadable(&error))?;
    // The model may have more logits than there are tokens, or fewer: what has no bytes is never allowed.
    words.resize(source.vocabulary_size, Vec::new());
    let size = u32::try_from(words.len()).map_err(|error| unreadable(&error))?;
    let trie = TokTrie::from(&TokRxInfo::new(size, INVALID_TOKEN), &words);
    let ends: Vec<u32> = source.end_token_ids.iter().copied().filter(|id| *id < size).collect();
    let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
        .map_err(|error| unreadable(&error))?;
    factory.quiet();
    *factory.limits_mut() =
        ParserLimits { max_lexer_states: MAX_LEXER_STATES, verbose_errors: false, ..ParserLimits::default() };
    Ok(factory)
}
