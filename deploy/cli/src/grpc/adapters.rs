//! Adapters: what inference has loaded, and changes of it.

use serde::Serialize;
use tonic::transport::Channel;
use weft_proto::inference::v1::{
    Adapter as Wire, ListAdaptersRequest, LoadAdapterRequest, UnloadAdapterRequest,
    inference_service_client::InferenceServiceClient,
};

use super::{Call, Refusal};

/// An adapter that is loaded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Adapter {
    /// The name that requests use.
    pub(crate) id: String,
    /// Grows with each replacement.
    pub(crate) generation: u64,
    /// The highest rank of its products.
    pub(crate) rank: u32,
    /// The projections that it changes.
    pub(crate) targets: Vec<String>,
    /// Bytes of its weights in memory.
    pub(crate) bytes: u64,
    /// Streams that use it now.
    pub(crate) streams: u32,
    /// SHA-256 of its weights file.
    pub(crate) fingerprint: String,
}

/// Those that are loaded.
///
/// # Errors
/// Whatever inference refuses.
pub(crate) async fn list(channel: Channel, call: Call) -> Result<Vec<Adapter>, Refusal> {
    let request = call.request(ListAdaptersRequest {});
    let answer = InferenceServiceClient::new(channel).list_adapters(request).await?.into_inner();
    Ok(answer.adapters.into_iter().map(Into::into).collect())
}

/// Loads the folder `path`, which inference has below its adapter folder, as `id`: in place of generation `expected`, where
/// that is said.
///
/// # Errors
/// Whatever inference refuses.
pub(crate) async fn load(
    channel: Channel,
    (id, path, expected): (String, String, Option<u64>),
    call: Call,
) -> Result<Option<Adapter>, Refusal> {
    let message = LoadAdapterRequest { adapter_id: id, path, expected_generation: expected };
    let answer = InferenceServiceClient::new(channel).load_adapter(call.request(message)).await?;
    Ok(answer.into_inner().adapter.map(Into::into))
}

/// Takes `id` away, if it is generation `expected`, where that is said.
///
/// # Errors
/// Whatever inference refuses.
pub(crate) async fn unload(
    channel: Channel,
    (id, expected): (String, Option<u64>),
    call: Call,
) -> Result<(), Refusal> {
    let message = UnloadAdapterRequest { adapter_id: id, expected_generation: expected };
    InferenceServiceClient::new(channel).unload_adapter(call.request(message)).await?;
    Ok(())
}

impl From<Wire> for Adapter {
    fn from(wire: Wire) -> Self {
        Self {
            id: wire.adapter_id,
            generation: wire.generation,
            rank: wire.rank,
            targets: wire.targets,
            bytes: wire.bytes,
            streams: wire.streams,
            fingerprint: wire.fingerprint,
        }
    }
}
