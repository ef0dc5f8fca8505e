//! Adapters on the wire.

use tonic::{Code, Request, Response, Status};
use weft_proto::inference::v1 as wire;
use weft_runtime::status;

use super::count;
use crate::{
    adapters::{Adapters, Lease, Standing},
    request::Generate,
};

/// Loads or replaces one.
pub(super) async fn load(
    adapters: &Adapters,
    request: Request<wire::LoadAdapterRequest>,
) -> Result<Response<wire::LoadAdapterResponse>, Status> {
    let wire::LoadAdapterRequest { adapter_id, path, expected_generation } = request.into_inner();
    let standing = adapters.load(&adapter_id, &path, expected_generation).await?;
    Ok(Response::new(wire::LoadAdapterResponse { adapter: Some(standing.into()) }))
}

/// Takes one away.
pub(super) fn unload(
    adapters: &Adapters,
    request: Request<wire::UnloadAdapterRequest>,
) -> Result<Response<wire::UnloadAdapterResponse>, Status> {
    let wire::UnloadAdapterRequest { adapter_id, expected_generation } = request.into_inner();
    adapters.unload(&adapter_id, expected_generation)?;
    Ok(Response::new(wire::UnloadAdapterResponse {}))
}

/// All of them.
pub(super) fn list(adapters: &Adapters) -> Vec<wire::Adapter> {
    adapters.list().into_iter().map(Into::into).collect()
}

/// The one that a request names, if it names one.
pub(super) fn lease(adapters: &Adapters, id: Option<&str>) -> Result<Option<Lease>, Status> {
    Ok(id.map(|id| adapters.lease(id)).transpose()?)
}

/// What tells the adapter of a request from others that had or will have its name.
///
/// # Errors
/// The request goes on with a generation that went through another.
pub(super) fn fingerprint(request: &Generate) -> Result<Option<String>, Status> {
    let own = request.adapter.as_ref().map(Lease::fingerprint);
    let before = request.resumption.as_ref().and_then(|resumption| resumption.adapter_fingerprint.as_deref());
    if before.is_some() && before != own {
        let message = "`resumption.adapter_fingerprint` is not that of the adapter that is loaded now";
        return Err(status::with_reason(Code::FailedPrecondition, "ADAPTER_REPLACED", message));
    }
    Ok(own.map(str::to_owned))
}

impl From<Standing> for wire::Adapter {
    fn from(standing: Standing) -> Self {
        Self {
            adapter_id: standing.id,
            generation: standing.generation,
            rank: count(standing.rank),
            targets: standing.targets,
            bytes: standing.bytes,
            streams: standing.streams,
            fingerprint: standing.fingerprint,
        }
    }
}
