//! A tokenizer whose ids are indices into a list of words.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming, async_trait};
use weft_proto::tokenizer::v1::{
    DecodeRequest, DecodeResponse, DecodeStreamRequest, DecodeStreamResponse, EncodeChatRequest,
    EncodeChatResponse, EncodeRequest, EncodeResponse, GetTokenizerInfoRequest, GetTokenizerInfoResponse,
    SpellRequest, SpellResponse,
    tokenizer_service_server::{TokenizerService, TokenizerServiceServer},
};
use weft_runtime::Services;

/// Ids of prompts: one for each word.
pub(crate) const PROMPT_ID: u32 = 7;

#[derive(Clone, Default)]
pub(crate) struct Tokenizer {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What ids mean, to all twins.
    words: Arc<Mutex<Vec<String>>>,
    /// Messages of streams to decode.
    heard: AtomicUsize,
    /// The texts that were encoded.
    encoded: Mutex<Vec<String>>,
    fingerprint: Mutex<Option<String>>,
}

impl Tokenizer {
    pub(crate) fn services(&self) -> Services {
        Services::new().add(TokenizerServiceServer::new(self.clone()))
    }

    /// A replica of it, for which every id means the same.
    pub(crate) fn twin(&self) -> Self {
        let words = Arc::clone(&self.state.words);
        Self { state: Arc::new(State { words, ..State::default() }) }
    }

    /// How many messages of streams to decode it was sent.
    pub(crate) fn heard(&self) -> usize {
        self.state.heard.load(Ordering::SeqCst)
    }

    /// Gives a word an id.
    pub(crate) fn id(&self, word: &str) -> u32 {
        let mut words = self.state.words.lock().unwrap();
        let known = words.iter().position(|known| known == word);
        let index = known.unwrap_or_else(|| {
            words.push(word.to_owned());
            words.len() - 1
        });
        u32::try_from(index).unwrap()
    }

    /// The texts of all prompts that were encoded, in order; messages joined by `|`.
    pub(crate) fn encoded(&self) -> Vec<String> {
        self.state.encoded.lock().unwrap().clone()
    }

    pub(crate) fn set_fingerprint(&self, fingerprint: &str) {
        *self.state.fingerprint.lock().unwrap() = Some(fingerprint.to_owned());
    }

    fn encode_text(&self, text: String) -> Vec<u32> {
        let ids = vec![PROMPT_ID; text.split_whitespace().count()];
        self.state.encoded.lock().unwrap().push(text);
        ids
    }

    /// Holds back the last character, as the real one does.
    fn decode_some(&self, held: &mut String, ids: &[u32]) -> String {
        let words = self.state.words.lock().unwrap();
        // What has no word is special, and has no text.
        held.extend(ids.iter().filter_map(|id| words.get(*id as usize)).map(String::as_str));
        let last = held.char_indices().next_back().map_or(0, |(at, _)| at);
        let open = held.split_off(last);
        std::mem::replace(held, open)
    }
}

#[async_trait]
impl TokenizerService for Tokenizer {
    type DecodeStreamStream = BoxStream<'static, Result<DecodeStreamResponse, Status>>;

    async fn encode(&self, request: Request<EncodeRequest>) -> Result<Response<EncodeResponse>, Status> {
        Ok(Response::new(EncodeResponse { token_ids: self.encode_text(request.into_inner().text) }))
    }

    async fn encode_chat(
        &self,
        request: Request<EncodeChatRequest>,
    ) -> Result<Response<EncodeChatResponse>, Status> {
        let texts: Vec<_> =
            request.into_inner().messages.into_iter().map(|message| message.content).collect();
        Ok(Response::new(EncodeChatResponse { token_ids: self.encode_text(texts.join("|")) }))
    }

    async fn decode(&self, request: Request<DecodeRequest>) -> Result<Response<DecodeResponse>, Status> {
        let words = self.state.words.lock().unwrap();
        let word = |id: &u32| words.get(*id as usize).map(String::as_str).unwrap_or_default();
        let text = request.into_inner().token_ids.iter().map(word).collect();
        Ok(Response::new(DecodeResponse { text }))
    }

    async fn spell(&self, request: Request<SpellRequest>) -> Result<Response<SpellResponse>, Status> {
        let words = self.state.words.lock().unwrap();
        let word = |id: &u32| words.get(*id as usize).cloned().unwrap_or_default().into_bytes();
        Ok(Response::new(SpellResponse { tokens: request.into_inner().token_ids.iter().map(word).collect() }))
    }

    async fn decode_stream(
        &self,
        request: Request<Streaming<DecodeStreamRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        let session = (self.clone(), request.into_inner(), String::new(), false);
        let texts = stream::try_unfold(session, |(tokenizer, mut ids, mut held, done)| async move {
            if done {
                return Ok(None);
            }
            let message = ids.message().await?;
            tokenizer.state.heard.fetch_add(1, Ordering::SeqCst);
            let done = message.is_none();
            let text = match message {
                Some(message) => tokenizer.decode_some(&mut held, &message.token_ids),
                None => std::mem::take(&mut held),
            };
            Ok(Some((DecodeStreamResponse { text }, (tokenizer, ids, held, done))))
        });
        Ok(Response::new(texts.boxed()))
    }

    async fn get_tokenizer_info(
        &self,
        _: Request<GetTokenizerInfoRequest>,
    ) -> Result<Response<GetTokenizerInfoResponse>, Status> {
        let fingerprint = self.state.fingerprint.lock().unwrap().clone();
        Ok(Response::new(GetTokenizerInfoResponse {
            vocabulary_size: 1_000,
            fingerprint: fingerprint.unwrap_or_else(|| "same".to_owned()),
            end_token_ids: vec![super::inference::END],
            has_chat_template: true,
            version: "double".to_owned(),
        }))
    }
}
