//! DecodeStream: one text for each message, and one more at the end.

use std::sync::Arc;

use futures::{Stream, stream};
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Status, Streaming};
use weft_proto::tokenizer::v1::{DecodeStreamRequest, DecodeStreamResponse};

use super::{BYTES_PER_ID, Tokenization, validate};
use crate::{detokenizer::Detokenizer, error::Error};

/// The texts for a stream of ids. Nothing is read ahead: a message is taken when its text is wanted.
pub(super) fn texts(
    shared: Tokenization,
    ids: Streaming<DecodeStreamRequest>,
) -> impl Stream<Item = Result<DecodeStreamResponse, Status>> {
    let open = Open::count(shared.metrics.open_decode_streams.clone());
    let detokenizer = shared.tokenizer.detokenizer();
    let session = Session { shared, ids, detokenizer, skip_special_tokens: None, taken: 0, _open: open };
    stream::try_unfold(Some(session), |session| async {
        let Some(session) = session else { return Ok(None) };
        let (text, session) = session.next().await?;
        Ok(Some((DecodeStreamResponse { text }, session)))
    })
}

/// A stream in progress.
struct Session {
    shared: Tokenization,
    ids: Streaming<DecodeStreamRequest>,
    detokenizer: Detokenizer,
    /// Known from the first message on.
    skip_special_tokens: Option<bool>,
    /// Ids so far.
    taken: usize,
    _open: Open,
}

impl Session {
    /// The next text, and the session unless that was the last.
    async fn next(mut self) -> Result<(String, Option<Self>), Status> {
        let Some(DecodeStreamRequest { token_ids, skip_special_tokens }) = self.ids.message().await? else {
            return Ok((self.detokenizer.finish()?, None));
        };
        validate::ids(&token_ids, self.taken, &self.shared.tokenizer, &self.shared.limits)?;
        self.taken += token_ids.len();
        self.shared.metrics.decoded_tokens.inc_by(token_ids.len() as u64);
        let skip = *self.skip_special_tokens.get_or_insert(skip_special_tokens.unwrap_or(true));
        let (text, session) = self.decode(token_ids, skip).await?;
        Ok((text, Some(session)))
    }

    /// A token or two are decoded here; a long message goes to the pool, and the text in the making with it.
    async fn decode(self, token_ids: Vec<u32>, skip: bool) -> Result<(String, Self), Error> {
        let bytes = token_ids.len() * BYTES_PER_ID;
        let tokenizer = Arc::clone(&self.shared.tokenizer);
        let mut detokenizer = self.detokenizer;
        let work = move || {
            let text = detokenizer.push(tokenizer.tokens(&token_ids, skip))?;
            Ok::<_, Error>((text, detokenizer))
        };
        let (text, detokenizer) = self.shared.pool.run_sized(bytes, work).await??;
        Ok((text, Self { detokenizer, ..self }))
    }
}

/// Counts a stream for as long as it is open.
struct Open(Gauge);

impl Open {
    fn count(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
