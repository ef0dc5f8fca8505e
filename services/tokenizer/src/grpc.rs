//! The door: wire types in, domain types inside, wire types out.

mod decode_stream;
mod validate;

use std::sync::Arc;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span, field, info_span};
use weft_proto::tokenizer::v1::{
    DecodeRequest, DecodeResponse, DecodeStreamRequest, DecodeStreamResponse, EncodeChatRequest,
    EncodeChatResponse, EncodeRequest, EncodeResponse, GetTokenizerInfoRequest, GetTokenizerInfoResponse,
    SpellRequest, SpellResponse,
    tokenizer_service_server::{TokenizerService, TokenizerServiceServer},
};
use weft_runtime::telemetry::fields;

use crate::{config::Limits, metrics::Metrics, pool::Pool, tokenizer::Tokenizer};

/// The work of an id, in bytes of text: decoding one takes about half a microsecond, in which 2 bytes are encoded.
const BYTES_PER_ID: usize = 2;

/// The gRPC service for a loaded tokenizer.
pub fn service(
    tokenizer: Arc<Tokenizer>,
    pool: Pool,
    limits: Limits,
    metrics: Metrics,
) -> TokenizerServiceServer<impl TokenizerService> {
    TokenizerServiceServer::new(Tokenization { tokenizer, pool, limits, metrics })
}

/// What every call shares.
#[derive(Clone, Debug)]
struct Tokenization {
    tokenizer: Arc<Tokenizer>,
    pool: Pool,
    limits: Limits,
    metrics: Metrics,
}

impl Tokenization {
    /// Makes ids of `bytes` of text, and counts both.
    async fn encode(
        &self,
        span: Span,
        bytes: usize,
        work: impl FnOnce(&Tokenizer) -> Result<Vec<u32>, Status> + Send + 'static,
    ) -> Result<Vec<u32>, Status> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let ids = self.pool.run_sized(bytes, move || work(&tokenizer)).instrument(span.clone()).await??;
        span.record("weft.tokens", ids.len());
        self.metrics.text_bytes.observe(bytes as f64);
        self.metrics.encoded_tokens.inc_by(ids.len() as u64);
        Ok(ids)
    }
}

#[tonic::async_trait]
impl TokenizerService for Tokenization {
    type DecodeStreamStream = BoxStream<'static, Result<DecodeStreamResponse, Status>>;

    async fn encode(&self, request: Request<EncodeRequest>) -> Result<Response<EncodeResponse>, Status> {
        let EncodeRequest { text, add_special_tokens } = request.into_inner();
        validate::text(&text, &self.limits)?;
        let bytes = text.len();
        let special = add_special_tokens.unwrap_or(true);
        let span =
            info_span!(target: fields::SPANS, "encode", weft.text_bytes = bytes, weft.tokens = field::Empty);
        let token_ids =
            self.encode(span, bytes, move |tokenizer| Ok(tokenizer.encode(&text, special)?)).await?;
        Ok(Response::new(EncodeResponse { token_ids }))
    }

    async fn encode_chat(
        &self,
        request: Request<EncodeChatRequest>,
    ) -> Result<Response<EncodeChatResponse>, Status> {
        let request = request.into_inner();
        let bytes = validate::sizes(&request, &self.limits)?;
        let limit = self.limits.max_text_bytes;
        let span = info_span!(
            target: fields::SPANS,
            "encode_chat",
            weft.messages = request.messages.len(),
            weft.text_bytes = bytes,
            weft.tokens = field::Empty
        );
        let work = move |tokenizer: &Tokenizer| {
            let conversation = validate::conversation(request)?;
            Ok(tokenizer.encode_chat(conversation, limit)?)
        };
        let token_ids = self.encode(span, bytes, work).await?;
        Ok(Response::new(EncodeChatResponse { token_ids }))
    }

    async fn decode(&self, request: Request<DecodeRequest>) -> Result<Response<DecodeResponse>, Status> {
        let DecodeRequest { token_ids, skip_special_tokens } = request.into_inner();
        validate::ids(&token_ids, 0, &self.tokenizer, &self.limits)?;
        let count = token_ids.len();
        let skip = skip_special_tokens.unwrap_or(true);
        let span = info_span!(target: fields::SPANS, "decode", weft.tokens = count);
        let tokenizer = Arc::clone(&self.tokenizer);
        let work = move || tokenizer.decode(&token_ids, skip);
        let text = self.pool.run_sized(count * BYTES_PER_ID, work).instrument(span).await??;
        self.metrics.decoded_tokens.inc_by(count as u64);
        Ok(Response::new(DecodeResponse { text }))
    }

    async fn decode_stream(
        &self,
        request: Request<Streaming<DecodeStreamRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        let stream = decode_stream::texts(self.clone(), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn spell(&self, request: Request<SpellRequest>) -> Result<Response<SpellResponse>, Status> {
        let SpellRequest { token_ids } = request.into_inner();
        validate::ids(&token_ids, 0, &self.tokenizer, &self.limits)?;
        let count = token_ids.len();
        let span = info_span!(target: fields::SPANS, "spell", weft.tokens = count);
        let tokenizer = Arc::clone(&self.tokenizer);
        let work = move || token_ids.iter().map(|id| tokenizer.spell(*id)).collect::<Result<_, _>>();
        let tokens = self.pool.run_sized(count * BYTES_PER_ID, work).instrument(span).await??;
        Ok(Response::new(SpellResponse { tokens }))
    }

    async fn get_tokenizer_info(
        &self,
        _request: Request<GetTokenizerInfoRequest>,
    ) -> Result<Response<GetTokenizerInfoResponse>, Status> {
        Ok(Response::new(GetTokenizerInfoResponse {
            vocabulary_size: self.tokenizer.vocabulary_size(),
            fingerprint: self.tokenizer.fingerprint().to_owned(),
            end_token_ids: self.tokenizer.end_token_ids().to_vec(),
            has_chat_template: self.tokenizer.has_chat_template(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
