//! The tokenizer, for prompts of an exact length.

use tonic::transport::Channel;
use weft_proto::tokenizer::v1::{
    DecodeRequest, EncodeRequest, tokenizer_service_client::TokenizerServiceClient,
};

use super::{Call, MAX_MESSAGE_BYTES, Refusal};

/// A client of the tokenizer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    client: TokenizerServiceClient<Channel>,
    call: Call,
}

impl Tokenizer {
    /// By this channel; each call is made as `call` says.
    pub(crate) fn new(channel: Channel, call: Call) -> Self {
        let client = TokenizerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, call }
    }

    /// Text to ids, with the tokens that the model expects around a text.
    ///
    /// # Errors
    /// Whatever the tokenizer refuses.
    pub(crate) async fn encode(&self, text: &str) -> Result<Vec<u32>, Refusal> {
        let request = EncodeRequest { text: text.to_owned(), add_special_tokens: None };
        Ok(self.client.clone().encode(self.call.request(request)).await?.into_inner().token_ids)
    }

    /// Ids to text, special tokens left out.
    ///
    /// # Errors
    /// Whatever the tokenizer refuses.
    pub(crate) async fn decode(&self, ids: &[u32]) -> Result<String, Refusal> {
        let request = DecodeRequest { token_ids: ids.to_vec(), skip_special_tokens: None };
        Ok(self.client.clone().decode(self.call.request(request)).await?.into_inner().text)
    }
}
