//! Token ids as they come: Generate of inference, for measuring it without the rooms around it.

use futures::{Stream, StreamExt as _};
use tonic::transport::Channel;
use weft_proto::inference::v1::{
    GenerateRequest, generate_response::Event, inference_service_client::InferenceServiceClient,
};

use super::{Call, Generation, MAX_MESSAGE_BYTES, Refusal};

/// A piece of a generation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The next tokens.
    Tokens,
    /// The end, with what was consumed.
    Finished {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
    },
}

/// A client of inference. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    client: InferenceServiceClient<Channel>,
}

impl Inference {
    /// By this channel.
    pub(crate) fn new(channel: Channel) -> Self {
        Self { client: InferenceServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES) }
    }

    /// Continues `ids`. Dropping the stream is cancelling.
    ///
    /// # Errors
    /// Whatever inference refuses, before or within the answer.
    pub(crate) async fn generate(
        &self,
        ids: Vec<u32>,
        generation: &Generation,
        call: Call,
    ) -> Result<impl Stream<Item = Result<Step, Refusal>> + Unpin + use<>, Refusal> {
        let request = GenerateRequest {
            prompt_token_ids: ids,
            sampling: Some(generation.sampling()),
            stop: Some(generation.conditions()),
            ..GenerateRequest::default()
        };
        let stream = self.client.clone().generate(call.request(request)).await?.into_inner();
        let steps = stream.map(|item| Ok(item?.event.and_then(step)));
        Ok(steps.filter_map(|item: Result<Option<Step>, Refusal>| async { item.transpose() }).boxed())
    }
}

fn step(event: Event) -> Option<Step> {
    match event {
        Event::Started(_) | Event::PromptLogprobs(_) => None,
        Event::Tokens(_) => Some(Step::Tokens),
        Event::Finished(finished) => {
            let usage = finished.usage.unwrap_or_default();
            Some(Step::Finished {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
            })
        }
    }
}
