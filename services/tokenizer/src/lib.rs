//! The tokenizer service: text to token ids and back, exactly as Hugging Face's tokenizers do for the same folder.
//!
//! Map: `config`; `folder` (what is read from the model's folder, and precise errors); `tokenizer` (encode, decode,
//! what is loaded); `conversation` and `chat_template` (a chat becomes text the way transformers renders it);
//! `special_tokens` (what a user typed never becomes a control token); `detokenizer` (ids to text as they come);
//! `pool` (CPU work off the reactor); `fingerprint`; `metrics`; `error`; `grpc` (the only room with wire types).
//!
//! Rules: text never enters a log or a span, only counts do; a stream's texts joined are what Decode gives for all
//! its ids; whatever a caller can make large is bounded by [`config::Limits`]; nothing here knows model weights.

pub mod chat_template;
pub mod config;
pub mod conversation;
pub mod detokenizer;
pub mod error;
pub mod fingerprint;
pub mod folder;
pub mod grpc;
pub mod metrics;
pub mod pool;
pub mod special_tokens;
pub mod tokenizer;

use std::sync::Arc;

use weft_runtime::{Context, Services};

pub use config::Config;
pub use error::{Error, LoadError};
pub use tokenizer::Tokenizer;

/// Loads the tokenizer and serves it.
///
/// # Errors
/// A model folder that is not usable: the file, what was expected of it and what was found.
pub async fn start(config: Config, context: Context) -> Result<Services, LoadError> {
    let metrics = metrics::Metrics::register(&context.metrics);
    let pool = pool::Pool::start(&config.pool, metrics.pool.clone())?;
    let loading = config.tokenizer.clone();
    // Reading a vocabulary takes some hundred milliseconds, or a second for a large one: not on the reactor.
    let tokenizer = pool.run(move || Tokenizer::load(&loading)).await.map_err(LoadError::Pool)??;
    tracing::info!(
        folder = %config.tokenizer.folder.display(),
        vocabulary_size = tokenizer.vocabulary_size(),
        fingerprint = tokenizer.fingerprint(),
        has_chat_template = tokenizer.has_chat_template(),
        "tokenizer loaded"
    );
    let service = grpc::service(Arc::new(tokenizer), pool, config.limits, metrics);
    Ok(Services::new().add(service.max_decoding_message_size(context.limits.max_message_bytes)))
}
