//! What services say of themselves.

use serde::Serialize;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use weft_proto::inference::v1::{
    GetEngineStatusRequest, GetModelInfoRequest, inference_service_client::InferenceServiceClient,
};

use super::{Call, Refusal};

/// The model that inference serves.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Model {
    /// The name that requests use.
    pub(crate) id: String,
    /// Such as `LlamaForCausalLM`.
    pub(crate) architecture: String,
    /// The type of its weights in memory.
    pub(crate) dtype: String,
    /// Where it runs.
    pub(crate) device: String,
    /// Weights, counted.
    pub(crate) parameters: u64,
    /// Longest sequence, prompt and output together.
    pub(crate) context_length: u32,
    /// Ids run from 0 to one less than this.
    pub(crate) vocabulary_size: u32,
    /// Ids that end a generation.
    pub(crate) end_token_ids: Vec<u32>,
}

/// How busy the engine is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Engine {
    /// Requests that wait.
    pub(crate) waiting: u32,
    /// Requests in the batch.
    pub(crate) running: u32,
    /// The most that may wait.
    pub(crate) max_waiting: u32,
    /// The most that may run at once.
    pub(crate) max_running: u32,
    /// KV cache blocks in all.
    pub(crate) kv_blocks_total: u32,
    /// KV cache blocks that are free.
    pub(crate) kv_blocks_free: u32,
    /// Tokens in a block.
    pub(crate) kv_block_size: u32,
    /// Steps since start.
    pub(crate) steps: u64,
    /// Tokens generated since start.
    pub(crate) generated_tokens: u64,
    /// Tokens prefilled since start.
    pub(crate) prefilled_tokens: u64,
    /// Preemptions since start.
    pub(crate) preemptions: u64,
}

/// What `grpc.health.v1` says of the whole process: `serving`, `not serving`, `unknown`.
///
/// # Errors
/// Nobody answers.
pub(crate) async fn health(channel: Channel, call: Call) -> Result<&'static str, Refusal> {
    let request = call.request(HealthCheckRequest { service: String::new() });
    let answer = HealthClient::new(channel).check(request).await?.into_inner();
    Ok(match answer.status() {
        ServingStatus::Serving => "serving",
        ServingStatus::NotServing => "not serving",
        ServingStatus::Unknown | ServingStatus::ServiceUnknown => "unknown",
    })
}

/// The model that inference serves.
///
/// # Errors
/// Whatever inference refuses.
pub(crate) async fn model(channel: Channel, call: Call) -> Result<Model, Refusal> {
    let request = call.request(GetModelInfoRequest {});
    let info = InferenceServiceClient::new(channel).get_model_info(request).await?.into_inner();
    Ok(Model {
        id: info.model_id,
        architecture: info.architecture,
        dtype: info.dtype,
        device: info.device,
        parameters: info.parameters,
        context_length: info.context_length,
        vocabulary_size: info.vocabulary_size,
        end_token_ids: info.end_token_ids,
    })
}

/// How busy the engine is.
///
/// # Errors
/// Whatever inference refuses.
pub(crate) async fn engine(channel: Channel, call: Call) -> Result<Engine, Refusal> {
    let request = call.request(GetEngineStatusRequest {});
    let status = InferenceServiceClient::new(channel).get_engine_status(request).await?.into_inner();
    Ok(Engine {
        waiting: status.waiting,
        running: status.running,
        max_waiting: status.max_waiting,
        max_running: status.max_running,
        kv_blocks_total: status.kv_blocks_total,
        kv_blocks_free: status.kv_blocks_free,
        kv_block_size: status.kv_block_size,
        steps: status.steps,
        generated_tokens: status.generated_tokens,
        prefilled_tokens: status.prefilled_tokens,
        preemptions: status.preemptions,
    })
}
